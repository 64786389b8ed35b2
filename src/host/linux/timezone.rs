//! The time zone: `/etc/localtime` or the environment's `TZ` and `TZDIR` (tzset(3), tzfile(5), RFC 9636).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tz::{LocalTimeType, TimeZone, timezone::TimeZoneSettings};

use crate::host::Host;

const LOCALTIME: &str = "/etc/localtime";
const ZONEINFO: &str = "/usr/share/zoneinfo";

/// What the environment says about the time zone.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `TZ`: a zone, which wins over that of the machine.
    pub zone: Option<OsString>,
    /// `TZDIR`: where zones are described, if not in the usual place, as on NixOS.
    pub directory: Option<OsString>,
}

impl Environment {
    /// That of this process.
    pub fn own() -> Environment {
        Environment { zone: std::env::var_os("TZ"), directory: std::env::var_os("TZDIR") }
    }

    fn directory(&self) -> PathBuf {
        self.directory.as_ref().filter(|directory| !directory.is_empty()).map_or_else(|| ZONEINFO.into(), PathBuf::from)
    }
}

/// The rules of a time zone.
pub struct Zone(Rules);

enum Rules {
    /// From a file or a POSIX rule.
    Known(TimeZone),
    /// A fixed offset, named by itself.
    Fixed(i32, String),
}

impl Zone {
    /// The zone of the machine, or the one that the environment names; whatever cannot be understood
    /// is UTC, as with the C library.
    pub fn local(host: &Host, environment: &Environment) -> Zone {
        let rules = match &environment.zone {
            None => from_file(host, Path::new(LOCALTIME)),
            Some(text) => text.to_str().and_then(|text| from_variable(host, &environment.directory(), text)),
        };
        Zone(rules.unwrap_or_else(|| Rules::Fixed(0, "UTC".to_owned())))
    }

    /// Seconds east of UTC at a time in seconds since 1970, and the zone's abbreviation then.
    pub fn at(&self, seconds: i64) -> (i32, String) {
        match &self.0 {
            Rules::Fixed(offset, name) => (*offset, name.clone()),
            Rules::Known(zone) => {
                let kind = kind_at(zone, seconds);
                (kind.ut_offset(), kind.time_zone_designation().to_owned())
            }
        }
    }

    /// The time in seconds since 1970 at which clocks in this zone show `local`. Of the two times
    /// at the end of summer it is one; for an hour that is left out it is the time next to it.
    pub fn utc(&self, local: i64) -> i64 {
        let offset = |seconds| i64::from(self.at(seconds).0);
        let guess = local.saturating_sub(offset(local));
        local.saturating_sub(offset(guess))
    }
}

fn kind_at(zone: &TimeZone, seconds: i64) -> LocalTimeType {
    let zone = zone.as_ref();
    let kinds = zone.local_time_types();
    zone.find_local_time_type(seconds).copied().unwrap_or_else(|_| {
        // A file without a rule for the time after its last transition.
        let last = zone.transitions().last().map_or(0, |last| last.local_time_type_index());
        kinds.get(last).copied().unwrap_or_else(LocalTimeType::utc)
    })
}

fn from_file(host: &Host, path: &Path) -> Option<Rules> {
    TimeZone::from_tz_data(&host.read(path).ok()?).ok().map(Rules::Known)
}

fn from_variable(host: &Host, directory: &Path, text: &str) -> Option<Rules> {
    let text = text.strip_prefix(':').unwrap_or(text);
    if text.is_empty() {
        return None;
    }
    // `join` keeps an absolute path as it is.
    from_file(host, &directory.join(text)).or_else(|| fixed_offset(text)).or_else(|| from_rule(text))
}

/// As in `EST5EDT,M3.2.0,M11.1.0`.
fn from_rule(text: &str) -> Option<Rules> {
    let no_files = TimeZoneSettings::new(&[], |_| Err("no files here".into()));
    no_files.parse_posix_tz(text).ok().map(Rules::Known)
}

/// As in `+05:30`, `-3`, `053015` and `Z`: east is positive, other than in POSIX rules. GLib has these.
fn fixed_offset(text: &str) -> Option<Rules> {
    if text == "Z" {
        return Some(Rules::Fixed(0, text.to_owned()));
    }
    let (sign, time) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    // Hours, minutes, seconds; only hours may have a single digit, and only before a colon or the end.
    let parts: Vec<&str> = match time.len() > 2 && !time.contains(':') && time.is_ascii() {
        true => (0..time.len()).step_by(2).map(|start| time.get(start..start + 2)).collect::<Option<_>>()?,
        false => time.split(':').collect(),
    };
    let mut offset = 0;
    for (index, (part, limit)) in parts.iter().zip([24, 59, 59]).enumerate() {
        let plain =
            part.bytes().all(|digit| digit.is_ascii_digit()) && (part.len() == 2 || index == 0 && part.len() == 1);
        let number: i32 = part.parse().ok().filter(|number| plain && *number <= limit)?;
        offset += number * [3600, 60, 1][index];
    }
    (parts.len() <= 3).then(|| Rules::Fixed(sign * offset, text.to_owned()))
}

#[cfg(test)]
mod tests;
