//! What the guest is and how it is called: system, host name, time zone, load.

use std::ffi::OsStr;

use serde::Serialize;

use super::{Command, Ctx, Lane};
use crate::host::Host;
use crate::host::linux::os_release;
use crate::host::linux::timezone::{Environment, Zone};
use crate::protocol::args;
use crate::protocol::error::{Error, Result};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-host-name", |cx, a| cx.call(host_name, a)).lane(Lane::Prompt),
    Command::new("guest-get-osinfo", |cx, a| cx.call(os_info, a)).lane(Lane::Prompt),
    Command::new("guest-get-timezone", |cx, a| cx.call(timezone, a)).lane(Lane::Prompt),
    Command::new("guest-get-load", |cx, a| cx.call(load, a)).lane(Lane::Inline),
];

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostName {
    host_name: String,
}

/// The kernel's name of the host: never asked of a name service (O11), never empty (O19).
fn host_name(cx: &Ctx<'_>, _: args::Empty) -> Result<HostName> {
    let uname = cx.host.kernel().uname();
    let uname = uname.map_err(|reason| Error::os("cannot get hostname", &reason))?;
    Ok(HostName { host_name: or_from_file(cx.host, uname.nodename) })
}

/// The name, or when nobody has set it the one in the file that hostname(5) describes.
fn or_from_file(host: &Host, name: String) -> String {
    if !name.is_empty() && name != "(none)" {
        return name;
    }
    let text = host.read_text("/etc/hostname").unwrap_or_default();
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.unwrap_or("localhost").to_owned()
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct OsInfo {
    kernel_release: String,
    kernel_version: String,
    machine: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pretty_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant_id: Option<String>,
}

/// The kernel by uname(2) and the distribution by os-release(5); what the file lacks is left out.
fn os_info(cx: &Ctx<'_>, _: args::Empty) -> Result<OsInfo> {
    describe(cx.host, std::env::var_os("QGA_OS_RELEASE").as_deref())
}

/// `file` replaces the files in `/etc` and `/usr/lib`.
fn describe(host: &Host, file: Option<&OsStr>) -> Result<OsInfo> {
    let uname = host.kernel().uname().map_err(|reason| Error::os("uname", &reason))?;
    let text = match file {
        Some(file) => host.read_text(file),
        None => host.read_text("/etc/os-release").or_else(|_| host.read_text("/usr/lib/os-release")),
    };
    let text = text.unwrap_or_default();
    let mut members = os_release::parse(&text);
    Ok(OsInfo {
        kernel_release: uname.release,
        kernel_version: uname.version,
        machine: uname.machine,
        id: members.remove("ID"),
        name: members.remove("NAME"),
        pretty_name: members.remove("PRETTY_NAME"),
        version: members.remove("VERSION"),
        version_id: members.remove("VERSION_ID"),
        variant: members.remove("VARIANT"),
        variant_id: members.remove("VARIANT_ID"),
    })
}

#[derive(Serialize)]
struct TimeZone {
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// Seconds east of UTC, now.
    offset: i32,
}

/// The time zone's abbreviation and its offset at this moment. Read anew each time, since the
/// administrator may change it while the agent runs.
fn timezone(cx: &Ctx<'_>, _: args::Empty) -> Result<TimeZone> {
    Ok(zone_now(cx.host, &Environment::own()))
}

fn zone_now(host: &Host, environment: &Environment) -> TimeZone {
    let seconds = host.kernel().now().div_euclid(1_000_000_000);
    let (offset, zone) = Zone::local(host, environment).at(seconds);
    TimeZone { zone: Some(zone).filter(|zone| !zone.is_empty()), offset }
}

#[derive(Serialize)]
struct Load {
    load1m: f64,
    load5m: f64,
    load15m: f64,
}

/// The load averages.
fn load(cx: &Ctx<'_>, _: args::Empty) -> Result<Load> {
    let load = cx.host.kernel().load();
    let [load1m, load5m, load15m] = load.map_err(|reason| Error::os("cannot query load average", &reason))?;
    Ok(Load { load1m, load5m, load15m })
}

#[cfg(test)]
mod tests;
