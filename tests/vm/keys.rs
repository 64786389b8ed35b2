//! Authorized keys, proved by a real sshd with its usual mistrust (`StrictModes`).

use serde_json::json;

use crate::people::{self, keys};
use crate::shared;

const GET: &str = "guest-ssh-get-authorized-keys";
const ADD: &str = "guest-ssh-add-authorized-keys";
const REMOVE: &str = "guest-ssh-remove-authorized-keys";

/// Lines of other people, which nobody may touch: an option, a comment, blanks, no newline at the end.
const FOREIGN: &str = "# of the administrator\n\n  ssh-ed25519 AAAAforeign one@x\n\
     command=\"/bin/true\",no-pty ssh-rsa AAAAforced two@x\n\t\nssh-rsa AAAAlast three@x";

#[test]
fn sshd_lets_in_whoever_has_an_authorized_key() {
    if shared::known_of_stock("adds blank lines, lists keys in reverse, leaves modes that sshd refuses") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    people::make(&mut guest, "ann");
    let key = people::key(&mut guest);
    let modes = "cd /home/ann && stat -c '%a %U:%G %n' .ssh .ssh/authorized_keys";

    agent.refused(GET, &json!({"username": "ann"}));
    assert_ne!(people::ssh(&mut guest, "ann", "true").status, 0, "not yet");
    agent.get(ADD, &keys("ann", &[&key]));
    assert_eq!(people::ssh(&mut guest, "ann", "id -un").text, "ann");
    assert_eq!(guest.shell.ok(modes), "700 ann:ann .ssh\n600 ann:ann .ssh/authorized_keys");
    assert_eq!(agent.get(GET, &json!({"username": "ann"})), json!({"keys": [key]}));

    agent.get(REMOVE, &keys("ann", &[&key]));
    assert_ne!(people::ssh(&mut guest, "ann", "true").status, 0, "no more");
    agent.get(REMOVE, &keys("ann", &[&key]));

    // Between the lines of others, twice the same, and gone again without a trace.
    guest.shell.ok(&format!("printf '%s' '{FOREIGN}' >/home/ann/.ssh/authorized_keys"));
    for _ in 0..2 {
        agent.get(ADD, &keys("ann", &[&key]));
    }
    assert_eq!(guest.shell.ok("cat /home/ann/.ssh/authorized_keys; echo ."), format!("{FOREIGN}\n{key}\n."));
    let listed = agent.get(GET, &json!({"username": "ann"}));
    let expected = [
        "ssh-ed25519 AAAAforeign one@x",
        "command=\"/bin/true\",no-pty ssh-rsa AAAAforced two@x",
        "ssh-rsa AAAAlast three@x",
        &key,
    ];
    assert_eq!(listed, json!({"keys": expected}));
    assert_eq!(people::ssh(&mut guest, "ann", "id -un").text, "ann");
    agent.get(REMOVE, &keys("ann", &[&key]));
    assert_eq!(guest.shell.ok("cat /home/ann/.ssh/authorized_keys; echo ."), format!("{FOREIGN}\n."));

    // sshd ignores files that others may write; so adding a key makes them fit for use.
    guest.shell.ok("chmod 777 /home/ann/.ssh; chmod 666 /home/ann/.ssh/authorized_keys");
    let mut replace = keys("ann", &[&key]);
    replace["reset"] = json!(true);
    agent.get(ADD, &replace);
    assert_eq!(guest.shell.ok(modes), "755 ann:ann .ssh\n600 ann:ann .ssh/authorized_keys");
    assert_eq!(people::ssh(&mut guest, "ann", "cat .ssh/authorized_keys").text, key, "the others are gone");

    // Not out of the home: root's file would be another user's to read and to replace.
    guest.shell.ok(
        "rm -r /home/ann/.ssh; mkdir -p /run/elsewhere; chown ann /run/elsewhere; ln -s /run/elsewhere /home/ann/.ssh",
    );
    agent.refused(ADD, &keys("ann", &[&key]));
    guest.shell.ok("! test -e /run/elsewhere/authorized_keys && rm -r /run/elsewhere");
    let nobody = agent.refused(ADD, &keys("nosuchuser", &[&key]));
    assert!(nobody.text.contains("nosuchuser"), "{}", nobody.text);
    guest.shell.ok("systemctl stop ssh");
}
