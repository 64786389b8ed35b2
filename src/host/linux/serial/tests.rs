use super::*;
use crate::host::fixture::Machine;
use proptest::prelude::*;

const SCSI: &str = "/sys/devices/pci0000:00/0000:00:05.0/virtio2/host0/target0:0:0/0:0:0:0";

/// A VPD page 0x83 with these entries: code set, kind, identifier.
fn page_83(entries: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut page = vec![0, 0x83, 0, 0];
    for &(code_set, kind, id) in entries {
        page.extend([code_set, kind, 0, id.len().try_into().expect("short")]);
        page.extend(id);
    }
    page
}

fn serial(machine: &Machine, name: &str) -> Option<String> {
    let host = machine.host();
    let disks = super::super::block::linked(&host, "/sys/block").expect("disks");
    let mut devices = disks.iter().flat_map(|disk| [vec![disk.clone()], disk.partitions(&host)].concat());
    let device = devices.find(|device| device.name() == name).expect("a device");
    Serials::new(&host).of(&device)
}

fn scsi_disk(vendor: &str, model: &str) -> Machine {
    Machine::new(&format!(
        "/sys/block/sda => ../devices{}/block/sda\n{SCSI}/block/sda/dev -> 8:0\n{SCSI}/block/sda/sda1/dev -> 8:1\n\
         {SCSI}/vendor -> {vendor}\n{SCSI}/model -> {model}\n",
        &SCSI["/sys/devices".len()..]
    ))
}

#[test]
fn udev_is_asked_for_the_device_itself() {
    let machine = scsi_disk("QEMU    ", "QEMU HARDDISK   ");
    machine.add("/run/udev/data/b8:0:\n| N:sda\n| E:ID_SERIAL=0QEMU_QEMU_HARDDISK_x\n| E:ID_SERIAL_SHORT=x\n");
    machine.add("/run/udev/data/b8:1:\n| E:ID_SERIAL_SHORT=x\n| G:systemd\n");
    assert_eq!(serial(&machine, "sda").as_deref(), Some("0QEMU_QEMU_HARDDISK_x"));
    // udev knows the partition and says that it has none.
    assert_eq!(serial(&machine, "sda1"), None);
}

#[test]
fn an_unknown_device_is_rebuilt_even_where_udev_runs() {
    let machine = scsi_disk("QEMU    ", "QEMU HARDDISK   ");
    machine.add("/run/udev/data/\n");
    machine.file(&format!("{SCSI}/vpd_pg83"), page_83(&[(2, 0, b"drive-scsi0")]));
    assert_eq!(serial(&machine, "sda1").as_deref(), Some("0QEMU_QEMU_HARDDISK_drive-scsi0"));
}

#[test]
fn virtio_has_its_own_attribute() {
    let machine = Machine::new(
        "/sys/block/vda => ../devices/pci0000:00/0000:00:02.0/virtio0/block/vda\n\
         /sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda/serial -> my serial\n",
    );
    assert_eq!(serial(&machine, "vda").as_deref(), Some("my serial"));
    machine.file("/sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda/serial", "\n");
    assert_eq!(serial(&machine, "vda"), None);
}

#[test]
fn a_virtio_disk_is_asked_once_until_another_takes_its_place() {
    let vda = "/sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda";
    let machine = Machine::new(&format!("/sys/block/vda => ..{}\n{vda}/serial -> first\n", &vda["/sys".len()..]));
    let host = machine.host();
    let ask = || {
        let disks = super::super::block::linked(&host, "/sys/block").expect("disks");
        Serials::new(&host).of(&disks[0])
    };
    assert_eq!(ask().as_deref(), Some("first"));
    machine.file(&format!("{vda}/serial"), "changed\n");
    assert_eq!(ask().as_deref(), Some("first"));
    // The old directory stays for the time being, so that the new one is another inode.
    std::fs::rename(machine.path(vda), machine.path("/old")).expect("moved");
    machine.add(&format!("{vda}/serial -> second\n"));
    assert_eq!(ask().as_deref(), Some("second"));
}

#[test]
fn a_virtio_disk_that_never_answers_has_no_serial() {
    let vda = "/sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda";
    let machine = Machine::new(&format!("/sys/block/vda => ..{}\n{vda}/size -> 8\n", &vda["/sys".len()..]));
    // Opening a FIFO for reading waits for a writer.
    nix::unistd::mkfifo(&machine.path(&format!("{vda}/serial")), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let start = std::time::Instant::now();
    assert_eq!(serial(&machine, "vda"), None);
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn nvme_joins_model_and_serial_of_the_controller_and_the_namespace() {
    let machine = Machine::new(
        "/sys/block/nvme0n1 => ../devices/pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1\n\
         /sys/devices/pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1/nvme0n1p1/dev -> 259:1\n\
         /sys/devices/pci0000:00/0000:00:07.0/nvme/nvme0/model -> QEMU NVMe Ctrl                          \n\
         /sys/devices/pci0000:00/0000:00:07.0/nvme/nvme0/serial -> deadbeef            \n",
    );
    assert_eq!(serial(&machine, "nvme0n1p1").as_deref(), Some("QEMU_NVMe_Ctrl_deadbeef"));
    machine.add("/sys/devices/pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1/nsid -> 3\n");
    assert_eq!(serial(&machine, "nvme0n1p1").as_deref(), Some("QEMU_NVMe_Ctrl_deadbeef_3"));
}

#[test]
fn the_best_identifier_of_a_scsi_disk_is_taken() {
    let machine = scsi_disk("LIO-ORG ", "block           ");
    let naa = [0x60, 1, 0x40, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff];
    let entries: &[(u8, u8, &[u8])] = &[
        (2, 0, b"own"),
        (2, 1, b"LIO-ORG block:1"),
        (1, 0x13, &[0x50, 0, 0, 0, 0, 0, 0, 1]),
        (1, 2, &[1, 2, 3, 4, 5, 6, 7, 8]),
        (1, 3, &naa),
    ];
    for (count, wanted) in [
        (1, "0LIO-ORG_block_own"),
        (2, "1LIO-ORG_block:1"),
        (3, "1LIO-ORG_block:1"),
        (4, "20102030405060708"),
        (5, "3600140050000000100000000000000ff"),
    ] {
        machine.file(&format!("{SCSI}/vpd_pg83"), page_83(&entries[..count]));
        assert_eq!(serial(&machine, "sda").as_deref(), Some(wanted));
    }
}

#[test]
fn without_identifiers_there_is_the_unit_serial_number() {
    let machine = scsi_disk("VMware  ", "Virtual disk    ");
    assert_eq!(serial(&machine, "sda"), None);
    machine.file(&format!("{SCSI}/vpd_pg80"), b"\0\x80\0\x066000c2");
    assert_eq!(serial(&machine, "sda").as_deref(), Some("SVMware_Virtual_disk_6000c2"));
}

#[test]
fn ata_disks_have_the_whole_model() {
    let machine = scsi_disk("ATA     ", "QEMU HARDDISK   ");
    let mut id = b"ATA     ".to_vec();
    id.extend(format!("{:40}{:20}", "QEMU HARDDISK", "QM00001").bytes());
    machine.file(&format!("{SCSI}/vpd_pg83"), page_83(&[(2, 0, b"QM00001             "), (2, 1, &id)]));
    assert_eq!(serial(&machine, "sda").as_deref(), Some("QEMU_HARDDISK_QM00001"));
}

#[test]
fn usb_disks_have_the_serial_of_the_usb_device() {
    let usb = "/sys/devices/pci0000:00/0000:00:09.0/usb2/2-1";
    let scsi = format!("{usb}/2-1:1.0/host10/target10:0:0/10:0:0:0");
    let machine = Machine::new(&format!(
        "/sys/block/sdb => ..{}/block/sdb\n{scsi}/block/sdb/size -> 8\n{usb}/serial -> 1-0000:00:09.0-1\n\
         {scsi}/vendor -> QEMU    \n{scsi}/model -> QEMU HARDDISK   \n",
        &scsi["/sys".len()..]
    ));
    assert_eq!(serial(&machine, "sdb").as_deref(), Some("QEMU_QEMU_HARDDISK_1-0000:00:09.0-1-0:0"));
}

proptest! {
    #[test]
    fn garbage_pages_never_panic(page in prop::collection::vec(any::<u8>(), 0..90), vendor in prop::collection::vec(any::<u8>(), 0..12)) {
        for vendor in [vendor, b"ATA".to_vec()] {
            let scsi = Scsi { vendor, model: page.clone(), identifiers: page.clone(), serial: page.clone() };
            let _ = (scsi.ata(), scsi.designator(), scsi.page_80(), scsi.usb("x", "1:2"));
        }
    }
}
