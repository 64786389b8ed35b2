//! How a disk is attached, told from its path below `/sys/devices`.
//!
//! Clients match these numbers with the virtual machine's definition: the PCI function of the
//! controller, and bus, target and unit as libvirt numbers them on that kind of controller.

use serde::Serialize;

use super::block::{Device, last, parent};
use super::{nvme, serial::Serials};
use crate::host::Host;

/// A disk's place in the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Address {
    /// The controller.
    pub pci_controller: Pci,
    /// What kind of cable, real or not.
    pub bus_type: BusType,
    /// Number of the bus or channel on the controller.
    pub bus: u32,
    /// Number of the target on the bus.
    pub target: u32,
    /// Logical unit of the target, or whatever tells disks apart on this kind of bus.
    pub unit: u32,
    /// The serial number in the form in which udev has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The device node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Where it is on an IBM Z machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ccw_address: Option<Ccw>,
}

/// Upstream's names; those that Linux never has are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum BusType {
    Ide,
    Fdc,
    Scsi,
    Virtio,
    Xen,
    Usb,
    Sata,
    Sd,
    Unknown,
    Fibre,
    Iscsi,
    Sas,
    Mmc,
    Nvme,
}

/// A PCI function; all -1 when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Pci {
    pub domain: i64,
    pub bus: i64,
    pub slot: i64,
    pub function: i64,
}

impl Pci {
    const NONE: Pci = Pci { domain: -1, bus: -1, slot: -1, function: -1 };
}

/// A channel subsystem device of an IBM Z machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Ccw {
    pub cssid: u32,
    pub ssid: u32,
    pub subchno: u32,
    pub devno: u32,
}

/// The addresses of one device that is not virtual: one, or one for each path to an NVMe disk that
/// has several.
pub fn of(host: &Host, serials: &Serials<'_>, device: &Device) -> Vec<Address> {
    let serial = serials.of(device);
    let complete = |place: Address| Address { serial: serial.clone(), dev: Some(device.node()), ..place };
    let controllers = nvme::controllers(host, device);
    if controllers.is_empty() {
        return vec![complete(place(host, device.path()))];
    }
    controllers.iter().map(|path| complete(place(host, path))).collect()
}

/// What the path tells.
fn place(host: &Host, path: &str) -> Address {
    let seen = Seen::new(path);
    let mut address = Address {
        pci_controller: seen.pci.map_or(Pci::NONE, |(pci, _)| pci),
        bus_type: BusType::Unknown,
        bus: 0,
        target: 0,
        unit: 0,
        serial: None,
        dev: None,
        ccw_address: seen.ccw,
    };
    if seen.has_nvme {
        address.bus_type = BusType::Nvme;
    } else if seen.has_usb {
        address.bus_type = BusType::Usb;
    } else if seen.has_virtio {
        address.bus_type = BusType::Virtio;
        if let Some(scsi) = seen.scsi {
            address.scsi(BusType::Scsi, scsi);
        }
    } else if let Some(port) = seen.ata.or(seen.host) {
        address.port(host, &seen, port);
    } else if let Some(scsi) = seen.scsi {
        address.scsi(BusType::Scsi, scsi);
    } else if let Some(bus_type) = seen.other {
        address.bus_type = bus_type;
        if bus_type == BusType::Sd {
            address.bus_type = card(host, path);
        }
    }
    address
}

impl Address {
    fn scsi(&mut self, bus_type: BusType, scsi: Scsi) {
        self.bus_type = bus_type;
        (self.bus, self.target, self.unit) = (scsi.channel, scsi.target, scsi.lun);
    }

    /// Fills in a disk below an ATA port or a SCSI host that is not virtio's.
    fn port(&mut self, host: &Host, seen: &Seen<'_>, port: &str) {
        let target = seen.scsi.map_or(0, |scsi| scsi.target);
        // The driver is asked for only where the path does not tell the kind.
        let driver = seen.pci.and_then(|(_, dir)| host.link(format!("{dir}/driver")).ok());
        let driver = driver.as_deref().and_then(|driver| driver.file_name()?.to_str()).unwrap_or_default();
        let is_ata = seen.ata.is_some() || driver == "ahci";
        if driver == "ata_piix" || driver.starts_with("pata_") {
            self.bus_type = BusType::Ide;
            self.bus = index_among_siblings(host, port);
            self.unit = target;
        } else if is_ata {
            self.bus_type = BusType::Sata;
            self.unit = index_among_siblings(host, port);
        } else if driver == "sym53c8xx" {
            // On this one libvirt calls the target unit.
            self.bus_type = BusType::Scsi;
            self.unit = target;
        } else if let Some(scsi) = seen.scsi {
            self.scsi(seen.other.unwrap_or(BusType::Scsi), scsi);
        }
    }
}

/// What the parts of a path mean.
#[derive(Default)]
struct Seen<'p> {
    /// The last PCI function on the way and its directory. Bridges come before it.
    pci: Option<(Pci, &'p str)>,
    ccw: Option<Ccw>,
    /// The directory of the ATA port.
    ata: Option<&'p str>,
    /// The directory of the SCSI host.
    host: Option<&'p str>,
    scsi: Option<Scsi>,
    has_nvme: bool,
    has_usb: bool,
    has_virtio: bool,
    other: Option<BusType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scsi {
    channel: u32,
    target: u32,
    lun: u32,
}

impl<'p> Seen<'p> {
    fn new(path: &'p str) -> Seen<'p> {
        let mut seen = Seen::default();
        let mut previous = "";
        let mut end = 0;
        for name in path.split('/') {
            let dir = &path[..end + name.len()];
            end += name.len() + 1;
            if let Some(pci) = pci(name) {
                seen.pci = Some((pci, dir));
            } else if let Some(ccw) = ccw(previous, name) {
                seen.ccw = Some(ccw);
            } else if let Some(scsi) = scsi(previous, name) {
                seen.scsi = Some(scsi);
            } else if numbered(name, "ata") {
                seen.ata = Some(dir);
            } else if numbered(name, "host") {
                seen.host = Some(dir);
            } else if numbered(name, "virtio") {
                seen.has_virtio = true;
            } else if numbered(name, "usb") {
                seen.has_usb = true;
            } else if numbered(name, "nvme") {
                seen.has_nvme = true;
            } else {
                seen.other = seen.other.or_else(|| other(name));
            }
            previous = name;
        }
        seen
    }
}

/// Buses that are told by one part of the path.
fn other(name: &str) -> Option<BusType> {
    let kinds = [
        ("session", BusType::Iscsi),
        ("rport-", BusType::Fibre),
        ("end_device-", BusType::Sas),
        ("vbd-", BusType::Xen),
        ("floppy.", BusType::Fdc),
        ("mmc_host", BusType::Sd),
    ];
    kinds.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|&(_, bus_type)| bus_type)
}

/// Tells a soldered chip from a card: the card's directory says `MMC` or `SD`.
fn card(host: &Host, path: &str) -> BusType {
    let Some(end) = path.rfind("/block/") else { return BusType::Sd };
    match host.read_attribute(format!("{}/type", &path[..end])).as_deref() {
        Ok("MMC") => BusType::Mmc,
        _ => BusType::Sd,
    }
}

/// `prefix` and a number.
fn numbered(name: &str, prefix: &str) -> bool {
    number(name, prefix).is_some()
}

fn number(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    if digits.starts_with('+') { None } else { digits.parse().ok() }
}

/// The how-manieth of its kind the port is on its controller, counted from 0.
///
/// Port numbers count on through the whole machine, so they depend on what was found before.
fn index_among_siblings(host: &Host, port: &str) -> u32 {
    let name = last(port);
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let Some(own) = number(name, kind) else { return 0 };
    let siblings = host.list(parent(port)).unwrap_or_default();
    let before = siblings.iter().filter(|name| {
        let sibling = name.to_str().and_then(|name| number(name, kind));
        sibling.is_some_and(|sibling| sibling < own)
    });
    before.count().try_into().unwrap_or(0)
}

fn hex(digits: &str) -> Option<u32> {
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
}

/// `0000:01:02.3`; the domain may have more digits.
fn pci(name: &str) -> Option<Pci> {
    let (rest, function) = name.split_once('.')?;
    let mut parts = rest.split(':');
    let (domain, bus, slot) = (parts.next()?, parts.next()?, parts.next()?);
    let well_formed = domain.len() >= 4 && bus.len() == 2 && slot.len() == 2 && function.len() == 1;
    if !well_formed || parts.next().is_some() {
        return None;
    }
    let number = |digits| hex(digits).map(i64::from);
    Some(Pci { domain: number(domain)?, bus: number(bus)?, slot: number(slot)?, function: number(function)? })
}

/// `0.0.0003` and below it `0.0.1234`: subchannel and device.
fn ccw(subchannel: &str, device: &str) -> Option<Ccw> {
    let (cssid, ssid, subchno) = bus_id(subchannel)?;
    let (_, _, devno) = bus_id(device)?;
    Some(Ccw { cssid, ssid, subchno, devno })
}

fn bus_id(name: &str) -> Option<(u32, u32, u32)> {
    let mut parts = name.split('.');
    let id = (hex(parts.next()?)?, hex(parts.next()?)?, hex(parts.next()?)?);
    (parts.next().is_none() && name.len() >= 8).then_some(id)
}

/// `target6:0:3` and below it `6:0:3:7`.
fn scsi(target: &str, unit: &str) -> Option<Scsi> {
    target.strip_prefix("target")?;
    let mut parts = unit.split(':').map(|part| part.parse().ok());
    let _host: u32 = parts.next()??;
    let (channel, target) = (parts.next()??, parts.next()??);
    // A unit may have 64 bits; what does not fit has no number here.
    let lun = parts.next()?.unwrap_or(0);
    parts.next().is_none().then_some(Scsi { channel, target, lun })
}

#[cfg(test)]
mod tests;
