//! Serial numbers of disks in udev's form (`ID_SERIAL`), which hosts match on.
//!
//! Where udev runs, its database has them (`/run/udev/data`, one file for each device, lines such
//! as `E:ID_SERIAL=...`). Where it does not, they are put together from `/sys` as udev's rules
//! `60-persistent-storage.rules` and its programs for SCSI, ATA and USB do.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::block::{Device, last, parent};
use crate::host::Host;

/// What virtio disks answered when they were asked for their serial numbers.
///
/// Reading that attribute sends a request to the virtual machine's host: it costs more than all
/// the rest of a reply, and a dead disk never answers it.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<String, Answer>>);

#[derive(Clone, Debug)]
struct Answer {
    /// The inode of the disk's directory: another disk in the same place has another one.
    inode: u64,
    serial: String,
}

impl Known {
    /// Disks come and go; those that went are forgotten when there are so many.
    const LIMIT: usize = 1024;

    /// The serial number of a virtio disk; nothing when it does not answer in time.
    fn virtio(&self, host: &Host, disk: &str) -> Option<String> {
        let inode = std::fs::metadata(host.path(disk)).ok()?.ino();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(disk).cloned();
        if let Some(answer) = known.filter(|answer| answer.inode == inode) {
            return Some(answer.serial);
        }
        let ask = |path: &Path| std::fs::read_to_string(path).map(|serial| serial.trim().to_owned());
        let answer: io::Result<String> = host.patience().one(host.path(disk).join("serial"), ask)?;
        let serial = answer.ok()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::LIMIT {
            known.clear();
        }
        known.insert(disk.to_owned(), Answer { inode, serial: serial.clone() });
        Some(serial)
    }
}

/// Finds serial numbers on one machine.
pub struct Serials<'h> {
    host: &'h Host,
    has_udev: bool,
}

impl<'h> Serials<'h> {
    /// Looks whether udev runs.
    pub fn new(host: &'h Host) -> Serials<'h> {
        Serials { host, has_udev: host.exists("/run/udev/data") }
    }

    /// The serial number of a disk, or of the disk that a partition is on.
    pub fn of(&self, device: &Device) -> Option<String> {
        self.in_udev(device).unwrap_or_else(|| self.rebuilt(device.disk_path())).filter(|serial| !serial.is_empty())
    }

    /// What udev knows; nothing when it does not know the device.
    fn in_udev(&self, device: &Device) -> Option<Option<String>> {
        if !self.has_udev {
            return None;
        }
        let (major, minor) = device.number(self.host)?;
        let record = self.host.read_text(format!("/run/udev/data/b{major}:{minor}")).ok()?;
        let serial = record.lines().find_map(|line| line.strip_prefix("E:ID_SERIAL="));
        Some(serial.map(|serial| serial.trim().to_owned()))
    }

    /// What udev would make of it.
    fn rebuilt(&self, disk: &str) -> Option<String> {
        let attribute = |path: &str| self.host.read_attribute(path).ok().filter(|value| !value.is_empty());
        let name = last(disk);
        if name.starts_with("vd") {
            return self.host.serials().virtio(self.host, disk);
        }
        if name.starts_with("nvme") {
            let controller = parent(disk);
            let model = attribute(&format!("{controller}/model"))?;
            let serial = attribute(&format!("{controller}/serial"))?;
            // Rules before systemd 252 left the namespace out.
            let namespace = attribute(&format!("{disk}/nsid")).map(|id| format!("_{id}")).unwrap_or_default();
            return Some(plain(&format!("{model}_{serial}{namespace}")));
        }
        let device = disk.rfind("/block/").map(|end| &disk[..end])?;
        if name.starts_with("mmcblk") {
            return attribute(&format!("{device}/serial"));
        }
        let scsi = Scsi {
            vendor: self.host.read(format!("{device}/vendor")).ok()?,
            model: self.host.read(format!("{device}/model")).ok()?,
            identifiers: self.host.read(format!("{device}/vpd_pg83")).unwrap_or_default(),
            serial: self.host.read(format!("{device}/vpd_pg80")).unwrap_or_default(),
        };
        match usb_serial(self.host, device) {
            Some(serial) => Some(scsi.usb(&serial, last(device))),
            None => scsi.ata().or_else(|| scsi.designator()).or_else(|| scsi.page_80()),
        }
    }
}

/// The serial number of the USB device that a SCSI device belongs to: the nearest directory above
/// that has one.
fn usb_serial(host: &Host, device: &str) -> Option<String> {
    let start = device.find("/usb")?;
    let mut dir = parent(device);
    while dir.len() > start + 1 {
        if let Ok(serial) = host.read_attribute(format!("{dir}/serial")) {
            return Some(serial);
        }
        dir = parent(dir);
    }
    None
}

/// What a SCSI disk says of itself: INQUIRY data and the "vital product data" pages of SPC-4 7.8.
struct Scsi {
    vendor: Vec<u8>,
    model: Vec<u8>,
    identifiers: Vec<u8>,
    serial: Vec<u8>,
}

impl Scsi {
    /// `MODEL_SERIAL`, for a disk behind a bridge from ATA. The model in the INQUIRY data is cut;
    /// the one in the identifier of type 1 is whole: vendor `ATA`, 40 bytes model, 20 serial.
    fn ata(&self) -> Option<String> {
        if self.vendor.trim_ascii() != b"ATA" {
            return None;
        }
        let whole = designators(&self.identifiers).find(|d| d.kind == 1 && d.id.len() == 68)?;
        let (model, serial) = whole.id[8..].split_at(40);
        Some(format!("{}_{}", underscores(model), underscores(serial)))
    }

    /// The kind of the best identifier and the identifier; vendor and model before one that only
    /// the vendor understands.
    fn designator(&self) -> Option<String> {
        // Best first: NAA (registered extended, registered, others), EUI-64, T10, the vendor's own.
        let rank = |d: &Designator<'_>| match (d.kind, d.id.first().map(|b| b >> 4)) {
            (3, Some(6)) => Some(0),
            (3, Some(5)) => Some(1),
            (3, _) => Some(2),
            (2, _) => Some(3),
            (1, _) => Some(4),
            (0, _) => Some(5),
            _ => None,
        };
        let best = designators(&self.identifiers).filter(|d| rank(d).is_some()).min_by_key(rank)?;
        let mut text = format!("{:x}", best.kind).into_bytes();
        if best.kind == 0 {
            text.extend(self.inquiry());
        }
        if best.is_text {
            text.extend_from_slice(best.id);
        } else {
            text.extend(best.id.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
        }
        Some(underscores(&text))
    }

    /// `S`, vendor, model and the unit serial number, for a disk without identifiers.
    fn page_80(&self) -> Option<String> {
        let serial = self.serial.get(4..)?.trim_ascii();
        let text = [b"S".as_slice(), &self.inquiry(), serial].concat();
        (!serial.is_empty()).then(|| underscores(&text))
    }

    /// `VENDOR_MODEL_SERIAL-TARGET:LUN`, for a disk behind USB; `unit` is `host:channel:target:lun`.
    fn usb(&self, serial: &str, unit: &str) -> String {
        let mut numbers = unit.split(':').skip(2);
        let (target, lun) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        let (vendor, model) = (underscores(&self.vendor), underscores(&self.model));
        format!("{vendor}_{model}_{}-{target}:{lun}", plain(serial))
    }

    /// Vendor and model as in the INQUIRY data: 8 and 16 bytes, filled up with blanks.
    fn inquiry(&self) -> Vec<u8> {
        let field = |value: &[u8], width: usize| {
            let mut field = value.trim_ascii_end().to_vec();
            field.resize(width, b' ');
            field
        };
        [field(&self.vendor, 8), field(&self.model, 16)].concat()
    }
}

/// One entry of VPD page 0x83.
struct Designator<'a> {
    kind: u8,
    is_text: bool,
    id: &'a [u8],
}

/// The identifiers of the disk itself; those of ports are left out, as is what is cut off.
fn designators(page: &[u8]) -> impl Iterator<Item = Designator<'_>> {
    let mut rest = page.get(4..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&[code_set, kind, _, length], tail) = rest.split_first_chunk()?;
        let (id, tail) = tail.split_at_checked(length.into())?;
        rest = tail;
        Some((code_set, kind, id))
    })
    .filter(|&(_, kind, id)| kind & 0x30 == 0 && !id.is_empty())
    .map(|(code_set, kind, id)| Designator { kind: kind & 0x0f, is_text: code_set & 0x0f != 1, id })
}

/// Text without white space around it, `_` for white space within, and for what udev does not allow.
fn underscores(text: &[u8]) -> String {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    plain(&String::from_utf8_lossy(&text[..end]))
}

fn plain(text: &str) -> String {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_/".contains(c) || !c.is_ascii();
    words.join("_").chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests;
