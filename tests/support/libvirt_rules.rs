//! What libvirt requires of a reply to take it at all (`qemu_agent.c`): a member that is missing or
//! of another type fails the whole call there, for whoever asked.
//!
//! Not the schema: libvirt ignores members it does not know, and commands it does not use.

use serde_json::{Map, Value};

/// The commands below: all that only ask, and take no argument.
pub const INVENTORY: [&str; 16] = [
    "guest-get-cpustats",
    "guest-get-diskstats",
    "guest-get-disks",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-load",
    "guest-get-memory-block-info",
    "guest-get-memory-blocks",
    "guest-get-osinfo",
    "guest-get-time",
    "guest-get-timezone",
    "guest-get-users",
    "guest-get-vcpus",
    "guest-info",
    "guest-network-get-interfaces",
    "guest-network-get-route",
];

/// A longer line closes the connection to the agent.
pub const LONGEST_LINE: usize = 10 * 1024 * 1024;

type Verdict = Result<(), String>;
type Object = Map<String, Value>;

/// One line from the agent, without its newline, as the reply to a command.
pub fn check_line(command: &str, line: &[u8]) -> Verdict {
    if line.len() >= LONGEST_LINE {
        return Err(format!("a line of {} bytes", line.len()));
    }
    if !line.is_ascii() || line.contains(&b'\r') {
        return Err("a line that is not one of ASCII".to_owned());
    }
    let reply: Value = serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
    let reply = object(&reply)?;
    match (reply.get("return"), reply.get("error")) {
        (Some(value), None) => check(command, value),
        (None, Some(error)) => {
            let error = object(error)?;
            text(error, "class")?;
            text(error, "desc")
        }
        _ => Err("neither a result nor an error, or both".to_owned()),
    }
}

/// What a command returned. A command without rules passes.
pub fn check(command: &str, value: &Value) -> Verdict {
    match command {
        "guest-get-disks" => each(value, disk),
        "guest-get-fsinfo" => each(value, file_system),
        "guest-get-host-name" => host_name(object(value)?),
        "guest-get-load" => all(["load1m", "load5m", "load15m"], |name| number(object(value)?, name)),
        "guest-get-osinfo" => os_info(object(value)?),
        "guest-get-time" => value.as_u64().map(|_| ()).ok_or("the time is no unsigned integer".to_owned()),
        "guest-get-timezone" => timezone(object(value)?),
        "guest-get-users" => each(value, user),
        "guest-get-vcpus" => each(value, vcpu),
        "guest-network-get-interfaces" => each(value, interface),
        "guest-ssh-get-authorized-keys" => list(object(value)?, "keys", |key| match key.as_str() {
            Some(_) => Ok(()),
            None => Err("a key that is no string".to_owned()),
        }),
        "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" | "guest-fsfreeze-thaw" | "guest-set-vcpus" => {
            let small = value.as_i64().and_then(|value| i32::try_from(value).ok());
            small.map(|_| ()).ok_or("no 32-bit integer".to_owned())
        }
        _ => Ok(()),
    }
}

fn file_system(member: &Object) -> Verdict {
    all(["name", "mountpoint", "type"], |name| text(member, name))?;
    // KubeVirt has integers for them too.
    for name in ["used-bytes", "total-bytes", "total-bytes-privileged"] {
        optional(member, name, |value| value.is_u64())?;
    }
    list(member, "disk", |value| address(object(value)?))
}

fn disk(member: &Object) -> Verdict {
    text(member, "name")?;
    boolean(member, "partition")?;
    optional(member, "alias", Value::is_string)?;
    if member.contains_key("dependencies") {
        list(member, "dependencies", |value| match value.as_str() {
            Some(_) => Ok(()),
            None => Err("a dependency that is no string".to_owned()),
        })?;
    }
    member.get("address").map_or(Ok(()), |value| address(object(value)?))
}

fn address(member: &Object) -> Verdict {
    text(member, "bus-type")?;
    all(["bus", "target", "unit"], |name| unsigned(member, name))?;
    optional(member, "serial", Value::is_string)?;
    optional(member, "dev", Value::is_string)?;
    let controller = object(member.get("pci-controller").ok_or("a disk without pci-controller")?)?;
    all(["domain", "bus", "slot", "function"], |name| unsigned(controller, name))?;
    let Some(ccw) = member.get("ccw-address") else { return Ok(()) };
    let ccw = object(ccw)?;
    all(["cssid", "ssid", "subchno", "devno"], |name| unsigned(ccw, name))
}

fn host_name(member: &Object) -> Verdict {
    text(member, "host-name")?;
    // An empty one is passed on, and fails the next program.
    if member["host-name"] == "" { Err("an empty host name".to_owned()) } else { Ok(()) }
}

fn os_info(member: &Object) -> Verdict {
    let names = ["id", "name", "pretty-name", "version", "version-id", "machine", "variant", "variant-id"];
    all(names, |name| optional(member, name, Value::is_string))?;
    all(["kernel-release", "kernel-version"], |name| optional(member, name, Value::is_string))
}

fn timezone(member: &Object) -> Verdict {
    optional(member, "zone", Value::is_string)?;
    integer(member, "offset", i64::from(i32::MIN), i64::from(i32::MAX))
}

fn user(member: &Object) -> Verdict {
    text(member, "user")?;
    optional(member, "domain", Value::is_string)?;
    number(member, "login-time")
}

fn vcpu(member: &Object) -> Verdict {
    unsigned(member, "logical-id")?;
    all(["online", "can-offline"], |name| boolean(member, name))?;
    if member["online"] == false && member["can-offline"] == false {
        return Err("a processor that is offline and cannot be".to_owned());
    }
    Ok(())
}

fn interface(member: &Object) -> Verdict {
    text(member, "name")?;
    optional(member, "hardware-address", Value::is_string)?;
    if !member.contains_key("ip-addresses") {
        return Ok(());
    }
    list(member, "ip-addresses", |value| {
        let address = object(value)?;
        text(address, "ip-address")?;
        unsigned(address, "prefix")?;
        match address.get("ip-address-type").and_then(Value::as_str) {
            Some("ipv4" | "ipv6") => Ok(()),
            other => Err(format!("an address of type {other:?}")),
        }
    })
}

fn each(value: &Value, rule: fn(&Object) -> Verdict) -> Verdict {
    let members = value.as_array().ok_or("no array")?;
    members.iter().try_for_each(|member| rule(object(member)?).map_err(|reason| format!("{reason}, in {member}")))
}

fn list(member: &Object, name: &str, rule: impl Fn(&Value) -> Verdict) -> Verdict {
    let values = member.get(name).and_then(Value::as_array).ok_or_else(|| format!("'{name}' is no array"))?;
    values.iter().try_for_each(rule)
}

fn all<const N: usize>(names: [&str; N], rule: impl Fn(&str) -> Verdict) -> Verdict {
    names.into_iter().try_for_each(rule)
}

fn object(value: &Value) -> Result<&Object, String> {
    value.as_object().ok_or_else(|| format!("no object: {value}"))
}

fn required(member: &Object, name: &str, fits: impl Fn(&Value) -> bool) -> Verdict {
    match member.get(name) {
        Some(value) if fits(value) => Ok(()),
        Some(value) => Err(format!("'{name}' is {value}")),
        None => Err(format!("'{name}' is missing")),
    }
}

/// A member that may be absent, but not null.
fn optional(member: &Object, name: &str, fits: impl Fn(&Value) -> bool) -> Verdict {
    if member.contains_key(name) { required(member, name, fits) } else { Ok(()) }
}

fn text(member: &Object, name: &str) -> Verdict {
    required(member, name, Value::is_string)
}

fn boolean(member: &Object, name: &str) -> Verdict {
    required(member, name, Value::is_boolean)
}

fn number(member: &Object, name: &str) -> Verdict {
    required(member, name, |value| value.as_f64().is_some_and(|value| value >= 0.0))
}

/// Read into an unsigned integer of C; -1 stands for what is not known.
fn unsigned(member: &Object, name: &str) -> Verdict {
    integer(member, name, -1, i64::from(u32::MAX))
}

fn integer(member: &Object, name: &str, least: i64, most: i64) -> Verdict {
    required(member, name, |value| value.as_i64().is_some_and(|value| (least..=most).contains(&value)))
}
