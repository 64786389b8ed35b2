//! What the guest is, where and how it is called, held against its own programs.

use serde_json::{Value, json};

use crate::shared;

const NONE: &Value = &Value::Null;

#[test]
fn system_and_names_are_those_the_guest_gives_itself() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();

    let info = agent.get("guest-get-osinfo", NONE);
    let script = ". /etc/os-release; printf '%s\\n' \"$ID\" \"$NAME\" \"$PRETTY_NAME\" \"$VERSION\" \"$VERSION_ID\"; \
                  uname -r; uname -v; uname -m";
    let said = guest.shell.ok(script);
    let names = ["id", "name", "pretty-name", "version", "version-id", "kernel-release", "kernel-version", "machine"];
    let expected: serde_json::Map<String, Value> =
        names.iter().zip(said.lines()).map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    assert_eq!(info, Value::Object(expected), "and no variant, as this system has none");

    for name in ["guest", "renamed.example.org"] {
        guest.shell.ok(&format!("hostname {name}"));
        assert_eq!(agent.get("guest-get-host-name", NONE), json!({"host-name": name}));
    }
    guest.shell.ok("hostname guest");
}

/// The same agent all the time: the administrator changes the file under it.
#[test]
fn the_time_zone_is_that_of_date() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    guest.shell.ok("cp -P /etc/localtime /run/localtime");
    let zones = ["Asia/Kolkata", "America/St_Johns", "Pacific/Apia", "Europe/Dublin", "Asia/Tehran", "UTC"];
    let by_link = zones.map(|zone| format!("ln -sf /usr/share/zoneinfo/{zone} /etc/localtime"));
    let by_copy = zones.map(|zone| format!("cp --remove-destination /usr/share/zoneinfo/{zone} /etc/localtime"));
    let in_place = ["cat /usr/share/zoneinfo/Asia/Kathmandu >/etc/localtime", "rm /etc/localtime"].map(str::to_owned);
    for change in by_link.into_iter().chain(by_copy).chain(in_place) {
        let said = guest.shell.ok(&format!("{change}; date +'%Z %:z'"));
        let (zone, offset) = said.split_once(' ').expect("two words");
        let (hours, minutes) = offset[1..].split_once(':').expect("hours and minutes");
        let number = |text: &str| text.parse::<i32>().expect("digits");
        let seconds = number(hours) * 3600 + number(minutes) * 60;
        let offset = if offset.starts_with('-') { -seconds } else { seconds };
        assert_eq!(agent.get("guest-get-timezone", NONE), json!({"zone": zone, "offset": offset}), "{change}");
    }
    guest.shell.ok("mv /run/localtime /etc/localtime");
}
