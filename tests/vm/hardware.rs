//! A guest that has everything: a disk on each bus that QEMU offers, two processors, and room for
//! more processors and memory.

use crate::harness::guest::Guest;
use crate::harness::machine::{Extra, Init};
use crate::harness::{SOON, until};

/// A disk, and where QEMU was told to put it.
pub struct Attached {
    /// QEMU's name of it.
    pub id: &'static str,
    /// No two have the same, so that the guest's device can be told by it.
    pub bytes: u64,
    /// Words of `-device`, controllers first.
    pub devices: &'static [&'static str],
    /// `bus-type`, and domain, bus, slot and function of the controller.
    pub bus_type: &'static str,
    pub pci: [i64; 4],
    /// Bus, target and unit, as libvirt numbers them.
    pub place: [u32; 3],
}

const MIB: u64 = 1 << 20;

const fn slot(slot: i64) -> [i64; 4] {
    [0, 0, slot, 0]
}

/// Disks that are trimmed: a small one, and one that is so large that it is done in pieces.
pub const THIN: &str = "thin";
pub const SLOW: &str = "slow";

/// In the order in which QEMU gets them. Not among them: am53c974, whose driver crashes where it
/// shares its interrupt, and mptsas1068, whose disks the driver does not find.
pub const DISKS: &[Attached] = &[
    Attached {
        id: "virtio",
        bytes: 601 * MIB,
        devices: &["virtio-blk-pci,drive=virtio,serial=virtio-serial,addr=0x10"],
        bus_type: "virtio",
        pci: slot(0x10),
        place: [0, 0, 0],
    },
    Attached {
        id: "bridged",
        bytes: 20 * MIB,
        devices: &["pci-bridge,id=bridge,chassis_nr=1,addr=0x11", "virtio-blk-pci,drive=bridged,bus=bridge,addr=3"],
        bus_type: "virtio",
        pci: [0, 1, 3, 0],
        place: [0, 0, 0],
    },
    Attached {
        id: "vscsi",
        bytes: 121 * MIB,
        devices: &[
            "virtio-scsi-pci,id=vscsi,addr=0x12",
            "scsi-hd,bus=vscsi.0,drive=vscsi,scsi-id=2,lun=5,serial=scsi-serial,wwn=0x5000c500a1b2c3d4",
        ],
        bus_type: "scsi",
        pci: slot(0x12),
        place: [0, 2, 5],
    },
    Attached {
        id: "vscsi-serial",
        bytes: 122 * MIB,
        devices: &["scsi-hd,bus=vscsi.0,drive=vscsi-serial,scsi-id=0,lun=0,serial=only-serial"],
        bus_type: "scsi",
        pci: slot(0x12),
        place: [0, 0, 0],
    },
    Attached {
        id: "vscsi-plain",
        bytes: 23 * MIB,
        devices: &["scsi-hd,bus=vscsi.0,drive=vscsi-plain,scsi-id=3,lun=0"],
        bus_type: "scsi",
        pci: slot(0x12),
        place: [0, 3, 0],
    },
    Attached {
        id: THIN,
        bytes: 400 * MIB,
        devices: &["scsi-hd,bus=vscsi.0,drive=thin,scsi-id=1,lun=0"],
        bus_type: "scsi",
        pci: slot(0x12),
        place: [0, 1, 0],
    },
    Attached {
        id: SLOW,
        bytes: 192 << 30,
        devices: &["virtio-blk-pci,drive=slow,addr=0x15"],
        bus_type: "virtio",
        pci: slot(0x15),
        place: [0, 0, 0],
    },
    Attached {
        id: "lsi",
        bytes: 24 * MIB,
        devices: &["lsi53c895a,id=lsi,addr=0x13", "scsi-hd,bus=lsi.0,drive=lsi,scsi-id=4,serial=lsi-serial"],
        bus_type: "scsi",
        pci: slot(0x13),
        // libvirt calls the target of this controller unit.
        place: [0, 0, 4],
    },
    Attached {
        id: "megasas",
        bytes: 25 * MIB,
        devices: &["megasas,id=raid,addr=0x14", "scsi-hd,bus=raid.0,drive=megasas,scsi-id=1,serial=raid-serial"],
        bus_type: "scsi",
        pci: slot(0x14),
        // The controller's own numbers: channel 2 is that of its volumes.
        place: [2, 1, 0],
    },
    Attached {
        id: "pvscsi",
        bytes: 27 * MIB,
        devices: &["pvscsi,id=pv,addr=0x16", "scsi-hd,bus=pv.0,drive=pvscsi,scsi-id=6,serial=pv-serial"],
        bus_type: "scsi",
        pci: slot(0x16),
        place: [0, 6, 0],
    },
    Attached {
        id: "ide",
        bytes: 129 * MIB,
        devices: &["ide-hd,bus=ide.1,unit=1,drive=ide,serial=ide-serial"],
        bus_type: "ide",
        pci: [0, 0, 1, 1],
        place: [1, 0, 1],
    },
    Attached {
        id: "sata",
        bytes: 130 * MIB,
        devices: &["ahci,id=ahci,addr=0x17", "ide-hd,bus=ahci.3,drive=sata,serial=sata-serial"],
        bus_type: "sata",
        pci: slot(0x17),
        place: [0, 0, 3],
    },
    Attached {
        id: "cd",
        bytes: 11 * MIB,
        devices: &["ide-cd,bus=ahci.1,drive=cd,serial=cd-serial", "ide-cd,bus=ahci.2"],
        bus_type: "sata",
        pci: slot(0x17),
        place: [0, 0, 1],
    },
    Attached {
        id: "nvme",
        bytes: 131 * MIB,
        devices: &["nvme,id=nvme,drive=nvme,serial=nvme-serial,addr=0x19"],
        bus_type: "nvme",
        pci: slot(0x19),
        place: [0, 0, 0],
    },
    Attached {
        id: "multipath",
        bytes: 132 * MIB,
        devices: &[
            "nvme-subsys,id=subsystem",
            "nvme,id=path0,subsys=subsystem,serial=two-paths,addr=0x1a",
            "nvme,id=path1,subsys=subsystem,serial=two-paths,addr=0x1b",
            "nvme-ns,drive=multipath,bus=path0,nsid=7",
        ],
        bus_type: "nvme",
        // The other path is beside it.
        pci: slot(0x1a),
        place: [0, 0, 0],
    },
    Attached {
        id: "usb",
        bytes: 33 * MIB,
        devices: &["qemu-xhci,id=xhci,addr=0x1c", "usb-storage,bus=xhci.0,drive=usb,serial=usb-serial"],
        bus_type: "usb",
        pci: slot(0x1c),
        place: [0, 0, 0],
    },
    Attached {
        id: "uas",
        bytes: 34 * MIB,
        devices: &["usb-uas,id=uas,bus=xhci.0", "scsi-hd,bus=uas.0,drive=uas,scsi-id=0,lun=0,serial=uas-serial"],
        bus_type: "usb",
        pci: slot(0x1c),
        place: [0, 0, 0],
    },
    Attached {
        id: "card",
        bytes: 64 * MIB,
        devices: &["sdhci-pci,addr=0x1d", "sd-card,drive=card"],
        bus_type: "sd",
        pci: slot(0x1d),
        place: [0, 0, 0],
    },
    Attached {
        id: "floppy",
        bytes: 1440 << 10,
        devices: &["floppy,drive=floppy"],
        bus_type: "fdc",
        pci: [-1; 4],
        place: [0, 0, 0],
    },
];

/// Their drivers. The guest's udev loads none by itself.
const DRIVERS: &str = "sd_mod sr_mod virtio_scsi sym53c8xx megaraid_sas vmw_pvscsi ata_piix ahci nvme \
     xhci_pci usb_storage uas sdhci_pci mmc_block floppy";

/// A network card that is connected to nothing.
const CARD: &str = "virtio-net-pci,mac=52:54:00:12:34:56,romfile=,addr=0x1e";

pub fn boot() -> Guest {
    let mut extra = Extra { size: "-m 384,slots=2,maxmem=2G -smp 2,maxcpus=3", ..Extra::default() };
    for disk in DISKS {
        extra.disks.push((disk.id, disk.bytes));
        extra.devices.extend(disk.devices);
    }
    extra.devices.push(CARD);
    let mut guest = Guest::boot_with(Init::Systemd, extra);
    // A diskette has its length when somebody has looked at it.
    guest.shell.ok(&format!("modprobe -a {DRIVERS}; blockdev --getsz /dev/fd0; udevadm settle"));
    guest
}

/// The guest's names for these disks, told by their lengths.
pub fn names_of(guest: &mut Guest, ids: &[&str]) -> Vec<String> {
    // Paths to a disk with several have no node and are hidden.
    let list = "for d in /sys/block/*; do echo ${d##*/} $(cat $d/size $d/hidden); done";
    let bytes_of = |id: &str| DISKS.iter().find(|disk| disk.id == id).expect("attached").bytes;
    let lines: Vec<String> = ids.iter().map(|id| format!(" {} 0", bytes_of(id) / 512)).collect();
    until("the guest finds its disks", SOON, || {
        let found = guest.shell.ok(list);
        let name = |end: &String| found.lines().find_map(|line| line.strip_suffix(end.as_str())).map(str::to_owned);
        lines.iter().map(name).collect()
    })
}
