//! libvirt itself as the client: every verb of `virsh` that asks the agent.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::domain::{self, Domain, MAC};
use crate::harness::{LATER, SOON, until};
use crate::{people, shared};

fn boot_id(domain: &mut Domain) -> String {
    domain.shell.ok("cat /proc/sys/kernel/random/boot_id")
}

/// libvirt knows of the agent by its port, and answers for it with an error until it is there.
fn wait_for_agent(domain: &Domain) {
    until("libvirt reaches the agent", LATER, || domain.virsh("guest-agent-timeout --timeout 60").ok());
    until("the agent answers libvirt", LATER, || agent(domain, "guest-ping", &Value::Null).ok());
}

/// A command of the agent's own, which libvirt passes on.
fn agent(domain: &Domain, command: &str, arguments: &Value) -> Result<Value, String> {
    let mut request = json!({"execute": command});
    if !arguments.is_null() {
        request["arguments"] = arguments.clone();
    }
    let said = domain.virsh_words(&["qemu-agent-command", "guest", &request.to_string()])?;
    let reply: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    Ok(reply["return"].clone())
}

/// The lines of a table below its heading, in words.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let body = text.split_once("---\n").map_or(text, |(_, body)| body);
    body.lines().map(|line| line.split_whitespace().collect()).filter(|row: &Vec<&str>| !row.is_empty()).collect()
}

/// A line of `guestinfo`, "name : value".
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    values.next().unwrap_or_else(|| panic!("there is {name} in {text}"))
}

#[test]
fn virsh_drives_the_agent() {
    if let Err(reason) = domain::possible() {
        shared::skipped(&reason);
        return;
    }
    let mut domain = Domain::boot();
    wait_for_agent(&domain);
    inventory(&mut domain);
    network(&mut domain);
    clock(&mut domain);
    processors(&mut domain);
    accounts(&mut domain);
    file_systems(&mut domain);
    errors(&mut domain);
    sleep(&mut domain);
    down(&mut domain);
}

fn inventory(domain: &mut Domain) {
    let info = agent(domain, "guest-info", &Value::Null).expect("info");
    assert!(info["supported_commands"].as_array().is_some_and(|list| list.len() >= 43), "{info}");

    // The last column is libvirt's: it found the disk by the address that the agent gave.
    let said = domain.ok("domfsinfo");
    assert_eq!(
        rows(&said),
        [["/", "vda", "ext4", "vda"], ["/home", "vdb", "ext4", "vdb"], ["/srv", "vdc", "xfs", "vdc"]]
    );

    let said = domain.ok("guestinfo");
    assert_eq!(field(&said, "hostname"), "guest");
    assert_eq!(field(&said, "os.id"), "debian");
    assert_eq!(field(&said, "os.kernel-release"), domain.shell.ok("uname -r"));
    let zone = field(&said, "timezone.name").to_owned();
    assert_eq!(zone, domain.shell.ok("date +%Z"));
    assert_eq!(field(&said, "timezone.offset"), "0");
    assert_eq!(field(&said, "user.count"), "0");
    assert_eq!(field(&said, "fs.count"), "3");
    for (index, (mountpoint, alias)) in [("/", "vda"), ("/home", "vdb"), ("/srv", "vdc")].into_iter().enumerate() {
        assert_eq!(field(&said, &format!("fs.{index}.mountpoint")), mountpoint);
        assert_eq!(field(&said, &format!("fs.{index}.disk.0.alias")), alias);
        let total: u64 = field(&said, &format!("fs.{index}.total-bytes")).parse().expect("bytes");
        let script = format!("stat -f -c '%b %a %f %S' {mountpoint} | awk '{{ print ($1 - $3 + $2) * $4 }}'");
        assert_eq!(total.to_string(), domain.shell.ok(&script), "the size that df has for {mountpoint}");
    }
    let disks: usize = field(&said, "disk.count").parse().expect("a number");
    let names: Vec<&str> = (0..disks).map(|index| field(&said, &format!("disk.{index}.name"))).collect();
    for disk in ["/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"] {
        assert!(names.contains(&disk), "{disk} in {names:?}");
    }
    assert_eq!(domain.ok("domhostname --source agent"), "guest");
}

fn network(domain: &mut Domain) {
    domain.shell.ok(
        "modprobe virtio_net && mkdir -p /run/systemd/network && printf '[Match]\\nName=e*\\n[Network]\\n\
         Address=10.0.2.15/24\\nAddress=fec0::15/64\\n' >/run/systemd/network/test.network && systemctl start systemd-networkd",
    );
    let said = until("the interface has its addresses", SOON, || {
        let said = domain.ok("domifaddr --source agent");
        (said.contains("10.0.2.15/24") && said.contains("fec0::15/64")).then_some(said)
    });
    let found = rows(&said);
    assert!(found.contains(&vec!["lo", "00:00:00:00:00:00", "ipv4", "127.0.0.1/8"]), "{said}");
    let of_card = found.iter().find(|row| row.contains(&MAC)).unwrap_or_else(|| panic!("{MAC} in {said}"));
    assert!(of_card[0].starts_with('e'), "{said}");
    let said = domain.ok("guestinfo --interface");
    assert_eq!((field(&said, "if.0.name"), field(&said, "if.0.addr.0.addr")), ("lo", "127.0.0.1"));
    assert_eq!((field(&said, "if.1.hwaddr"), field(&said, "if.1.addr.0.prefix")), (MAC, "24"));
    // Known to libvirt since 11.2.
    if let Ok(said) = domain.virsh("guestinfo --load") {
        assert!(field(&said, "load.1m").parse::<f64>().is_ok_and(|load| load >= 0.0), "{said}");
    }
}

fn guest_seconds(domain: &mut Domain) -> i64 {
    domain.shell.ok("date +%s").parse().expect("seconds")
}

fn clock(domain: &mut Domain) {
    let before = guest_seconds(domain);
    let said = domain.ok("domtime");
    let asked: i64 = said.trim_start_matches("Time: ").parse().expect("seconds");
    let after = guest_seconds(domain);
    assert!((before..=after).contains(&asked), "{before} {asked} {after}");

    domain.ok("domtime --time 1709210096");
    let late = guest_seconds(domain) - 1_709_210_096;
    assert!((0..60).contains(&late), "{late} s after the time that was set");
    domain.shell.ok("date -s @1000000000");
    domain.ok("domtime --sync");
    let late = guest_seconds(domain) - 1_709_210_096;
    assert!((-1..60).contains(&late), "{late} s after the hardware clock's time");
    domain.ok("domtime --now");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let late = i64::try_from(now).expect("before 2262") - guest_seconds(domain);
    assert!((0..60).contains(&late), "{late} s behind the host");
}

fn processors(domain: &mut Domain) {
    let online = "cat /sys/devices/system/cpu/online";
    assert_eq!(domain.ok("vcpucount --guest"), "2");
    domain.ok("setvcpus 1 --guest");
    assert_eq!(domain.shell.ok(online), "0");
    assert_eq!(domain.ok("vcpucount --guest"), "1");
    domain.ok("setvcpus 2 --guest");
    assert_eq!(domain.shell.ok(online), "0-1");
    let said = domain.ok("guestvcpus");
    assert_eq!((field_of_two(&said, "online"), field_of_two(&said, "offlinable")), ("0-1", "1"), "{said}");
    domain.ok("guestvcpus --disable --cpulist 1");
    assert_eq!(domain.shell.ok(online), "0");
    domain.ok("guestvcpus --enable --cpulist 1");
    assert_eq!(domain.shell.ok(online), "0-1");
}

fn field_of_two<'a>(text: &'a str, name: &str) -> &'a str {
    rows(text).into_iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} in {text}"))[2]
}

fn accounts(domain: &mut Domain) {
    people::make_in(&mut domain.shell, "ann");
    domain.ok("set-user-password ann Karmesin7");
    assert!(people::su_in(&mut domain.shell, "ann", "Karmesin7"));
    let hash = domain.shell.ok("perl -e 'print crypt(\"Indigo\", \"\\$6\\$salt\\$\")'");
    domain.ok(&format!("set-user-password ann {hash} --encrypted"));
    assert!(people::su_in(&mut domain.shell, "ann", "Indigo"));

    let keys = ["ssh-ed25519 AAAAone one@x", "ssh-rsa AAAAtwo two@x", "ssh-rsa AAAAthree three@x"];
    let first = domain.file("first", &format!("{}\n", keys[0]));
    let others = domain.file("others", &format!("{}\n{}\n", keys[1], keys[2]));
    domain.ok(&format!("set-user-sshkeys ann --file {others} --reset"));
    domain.ok(&format!("set-user-sshkeys ann --file {first}"));
    // virsh 9.0 leaves out the newlines between them.
    assert_eq!(domain.ok("get-user-sshkeys ann").replace('\n', ""), [keys[1], keys[2], keys[0]].concat());
    assert_eq!(domain.shell.ok("stat -c '%a %U' /home/ann/.ssh /home/ann/.ssh/authorized_keys"), "700 ann\n600 ann");
    domain.ok(&format!("set-user-sshkeys ann --file {others} --remove"));
    assert_eq!(domain.ok("get-user-sshkeys ann"), keys[0]);
}

fn file_systems(domain: &mut Domain) {
    domain.ok("domfstrim");
    domain.ok("domfstrim --minimum 4096");

    let said = domain.ok("domfsfreeze");
    assert!(said.contains("Froze 3 filesystem(s)"), "{said}");
    let pid = domain.shell.ok("touch /home/foo >/dev/null 2>&1 & echo $!");
    domain.shell.until("touch blocks", &format!("grep -q '^State:.D' /proc/{pid}/status"));
    // libvirt keeps on asking what it may ask, and hears why the rest is refused.
    assert_eq!(agent(domain, "guest-fsfreeze-status", &Value::Null), Ok(json!("frozen")));
    let refused = domain.virsh("domfsinfo").expect_err("frozen");
    assert!(!refused.is_empty());
    let said = domain.ok("domfsthaw");
    assert!(said.contains("Thawed 3 filesystem(s)"), "{said}");
    domain.shell.until("touch finishes", "test -e /home/foo");
    assert!(domain.ok("domfsthaw").contains("Thawed 0"), "once more to be sure");

    let said = domain.ok("domfsfreeze --mountpoint /srv /home");
    assert!(said.contains("Froze 2 filesystem(s)"), "{said}");
    assert!(domain.ok("domfsthaw").contains("Thawed 2"));
    // Freeze, snapshot and thaw in one.
    domain.ok("snapshot-create-as --disk-only --quiesce --no-metadata");
    assert_eq!(agent(domain, "guest-fsfreeze-status", &Value::Null), Ok(json!("thawed")));
    domain.shell.ok("touch /home/bar /srv/bar");
}

/// A mistake is an error of that command, and the next one works.
fn errors(domain: &mut Domain) {
    let unknown = agent(domain, "guest-nonsense", &Value::Null).expect_err("unknown");
    assert!(unknown.contains("The command guest-nonsense has not been found"), "{unknown}");
    domain.virsh("get-user-sshkeys nosuchuser").expect_err("nobody of that name");
    domain.virsh("set-user-password nosuchuser x").expect_err("nobody of that name");
    assert_eq!(agent(domain, "guest-ping", &Value::Null), Ok(json!({})));
}

fn sleep(domain: &mut Domain) {
    let before = boot_id(domain);
    for target in ["mem", "hybrid"] {
        domain.ok(&format!("dompmsuspend {target}"));
        domain.wait_state("pmsuspended");
        domain.ok("dompmwakeup");
        domain.wait_state("running");
        assert_eq!(boot_id(domain), before);
        wait_for_agent(domain);
        domain.shell.until("systemd is done with it", "! systemctl list-jobs --no-legend | grep -q .");
    }
}

fn down(domain: &mut Domain) {
    let before = boot_id(domain);
    domain.ok("reboot --mode agent");
    until("the guest starts anew", LATER, || {
        let now = domain.shell.attempt("cat /proc/sys/kernel/random/boot_id", Duration::from_secs(20));
        now.filter(|now| now.status == 0 && now.text != before)
    });
    domain.wait_booted();
    wait_for_agent(domain);
    domain.ok("shutdown --mode agent");
    domain.wait_state("failed to get domain");
}
