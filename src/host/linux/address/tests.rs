use super::*;
use crate::host::fixture::Machine;
use proptest::prelude::*;

/// What a path below `/sys/devices` gives on a machine with these files beside it.
fn told(path: &str, files: &str) -> String {
    let machine = Machine::new(&format!("/sys/\n{files}"));
    let host = machine.host();
    let address = place(&host, &format!("/sys/devices/{path}"));
    let Pci { domain, bus, slot, function } = address.pci_controller;
    let bus_type = serde_json::to_value(address.bus_type).expect("a word");
    let mut text = format!(
        "{} {}:{}:{} pci {domain}:{bus}:{slot}.{function}",
        bus_type.as_str().expect("a word"),
        address.bus,
        address.target,
        address.unit
    );
    if let Some(ccw) = address.ccw_address {
        text += &format!(" ccw {}.{}.{} {}", ccw.cssid, ccw.ssid, ccw.subchno, ccw.devno);
    }
    text
}

fn driver(function: &str, driver: &str) -> String {
    format!("/sys/devices/pci0000:00/{function}/driver => ../../../bus/pci/drivers/{driver}\n")
}

fn siblings(function: &str, kind: &str, numbers: std::ops::RangeInclusive<u32>) -> String {
    numbers.map(|n| format!("/sys/devices/pci0000:00/{function}/{kind}{n}/\n")).collect()
}

#[test]
fn virtio_disks() {
    assert_eq!(told("pci0000:00/0000:00:02.0/virtio0/block/vda/vda1", ""), "virtio 0:0:0 pci 0:0:2.0");
    assert_eq!(told("pci0000:00/0000:00:08.0/0000:01:00.0/virtio5/block/vdb", ""), "virtio 0:0:0 pci 0:1:0.0");
    // Upstream leaves bus and target at 0; libvirt numbers several disks of a controller by target.
    let path = "pci0000:00/0000:00:05.0/virtio2/host6/target6:0:3/6:0:3:7/block/sda/sda1";
    assert_eq!(told(path, ""), "scsi 0:3:7 pci 0:0:5.0");
}

#[test]
fn virtio_without_pci() {
    let mmio = "platform/a003e00.virtio_mmio/virtio7/block/vda";
    assert_eq!(told(mmio, ""), "virtio 0:0:0 pci -1:-1:-1.-1");
    // On ARM the host bridge is itself a platform device.
    let arm = "platform/4010000000.pcie/pci0000:00/0000:00:01.0/virtio0/block/vda";
    assert_eq!(told(arm, ""), "virtio 0:0:0 pci 0:0:1.0");
}

#[test]
fn channel_subsystem() {
    assert_eq!(told("css0/0.0.0003/0.0.1234/virtio3/block/vda", ""), "virtio 0:0:0 pci -1:-1:-1.-1 ccw 0.0.3 4660");
    assert_eq!(
        told("css0/0.0.0004/0.0.abcd/virtio4/host12/target12:0:2/12:0:2:5/block/sda", ""),
        "scsi 0:2:5 pci -1:-1:-1.-1 ccw 0.0.4 43981"
    );
    assert_eq!(told("css0/0.0.0007/0.0.0200/block/dasda/dasda1", ""), "unknown 0:0:0 pci -1:-1:-1.-1 ccw 0.0.7 512");
}

#[test]
fn ide_counts_ports_and_targets() {
    let files = driver("0000:00:01.1", "ata_piix") + &siblings("0000:00:01.1", "ata", 1..=2);
    let path = "pci0000:00/0000:00:01.1/ata2/host1/target1:0:1/1:0:1:0/block/sdb";
    assert_eq!(told(path, &files), "ide 1:0:1 pci 0:0:1.1");
    // Kernels before 2.6.39 have no ata directory.
    let files = driver("0000:00:01.1", "ata_piix") + &siblings("0000:00:01.1", "host", 0..=1);
    let path = "pci0000:00/0000:00:01.1/host1/target1:0:1/1:0:1:0/block/sdb";
    assert_eq!(told(path, &files), "ide 1:0:1 pci 0:0:1.1");
}

#[test]
fn sata_counts_ports_from_the_controllers_first() {
    let files = driver("0000:00:1f.2", "ahci") + &siblings("0000:00:1f.2", "ata", 3..=12);
    let path = |n: u32| format!("pci0000:00/0000:00:1f.2/ata{n}/host4/target4:0:0/4:0:0:0/block/sda/sda2");
    assert_eq!(told(&path(5), &files), "sata 0:0:2 pci 0:0:31.2");
    // Ten comes after nine, not after one.
    assert_eq!(told(&path(12), &files), "sata 0:0:9 pci 0:0:31.2");
    // Without a driver to ask.
    assert_eq!(told(&path(5), ""), "sata 0:0:0 pci 0:0:31.2");
}

#[test]
fn scsi_controllers() {
    let path = "pci0000:00/0000:00:06.0/host9/target9:0:4/9:0:4:0/block/sdc";
    assert_eq!(told(path, &driver("0000:00:06.0", "sym53c8xx")), "scsi 0:0:4 pci 0:0:6.0");
    assert_eq!(told(path, &driver("0000:00:06.0", "vmw_pvscsi")), "scsi 0:4:0 pci 0:0:6.0");
    let path = "pci0000:00/0000:00:0a.0/host0/port-0:0/end_device-0:0/target0:0:2/0:0:2:0/block/sdd";
    assert_eq!(told(path, &driver("0000:00:0a.0", "mpt3sas")), "sas 0:2:0 pci 0:0:10.0");
    let path = "pci0000:00/0000:00:0b.0/host1/rport-1:0-0/target1:0:0/1:0:0:3/block/sde";
    assert_eq!(told(path, ""), "fibre 0:0:3 pci 0:0:11.0");
    let path = "platform/host3/session1/target3:0:0/3:0:0:1/block/sdf";
    assert_eq!(told(path, ""), "iscsi 0:0:1 pci -1:-1:-1.-1");
    let path = "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/f8b3781a-1e82/host0/target0:0:0/0:0:0:2/block/sdg";
    assert_eq!(told(path, ""), "scsi 0:0:2 pci -1:-1:-1.-1");
    // A unit in extended addressing.
    let path = "pci0000:00/0000:00:0b.0/host1/rport-1:0-0/target1:0:0/1:0:0:4647714815446351872/block/sde";
    assert_eq!(told(path, ""), "fibre 0:0:0 pci 0:0:11.0");
}

#[test]
fn other_buses() {
    assert_eq!(told("pci0000:00/0000:00:07.0/nvme/nvme0/nvme0n1/nvme0n1p1", ""), "nvme 0:0:0 pci 0:0:7.0");
    let vmd = "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme1/nvme1n1";
    assert_eq!(told(vmd, ""), "nvme 0:0:0 pci 65536:225:0.0");
    let usb = "pci0000:00/0000:00:09.0/usb2/2-1/2-1:1.0/host10/target10:0:0/10:0:0:0/block/sdh";
    assert_eq!(told(usb, ""), "usb 0:0:0 pci 0:0:9.0");
    assert_eq!(told("vbd-51712/block/xvda", ""), "xen 0:0:0 pci -1:-1:-1.-1");
    assert_eq!(told("platform/floppy.0/block/fd0", ""), "fdc 0:0:0 pci -1:-1:-1.-1");
    assert_eq!(told("LNXSYSTM:00/ndbus0/region0/namespace0.0/block/pmem0", ""), "unknown 0:0:0 pci -1:-1:-1.-1");
    let card = "platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p1";
    assert_eq!(told(card, ""), "sd 0:0:0 pci -1:-1:-1.-1");
    let chip = "/sys/devices/platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:0001/type -> MMC\n";
    assert_eq!(told(card, chip), "mmc 0:0:0 pci -1:-1:-1.-1");
}

proptest! {
    #[test]
    fn any_path_has_an_answer(path in "(/?(pci0000:00|0000:0[0-9a-g]:1f.[0-9]|virtio[0-9+]*|target0:0:[0-9]*|0:0:0:[0-9]{0,20}|0\\.0\\.[0-9a-f]{0,5}|ata[0-9]{0,12}|host|é|nvme[0-9]|\\.|:|block)){0,9}") {
        let machine = Machine::new("/sys/\n");
        place(&machine.host(), &path);
    }
}
