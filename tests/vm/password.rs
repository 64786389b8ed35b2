//! `guest-set-user-password`, proved by logging in: through PAM as any program does it.

use crate::harness::SOON;
use crate::people::{self, set_password};
use crate::{by_hand, shared};

#[test]
fn a_new_password_lets_its_user_in_and_is_in_no_log() {
    let Some(mut guest) = shared::systemd() else { return };
    people::make(&mut guest, "ann");
    // As talkative as it gets.
    by_hand::start(&mut guest, "-v -l /run/verbose.log");
    let mut agent = guest.agent();
    agent.sync(SOON);
    assert!(!people::su(&mut guest, "ann", ""), "no password, no login");

    let plain = "Zinnober: \u{fc}ber $HOME";
    assert_eq!(set_password(&mut agent, "ann", plain, false), Ok(()));
    assert!(people::su(&mut guest, "ann", plain));
    assert!(!people::su(&mut guest, "ann", "Zinnober"));

    let hash = guest.shell.ok("perl -e 'print crypt(\"Karmesin 7\", \"\\$6\\$pfeffer\\$\")'");
    assert_eq!(set_password(&mut agent, "ann", &hash, true), Ok(()));
    assert!(people::su(&mut guest, "ann", "Karmesin 7"));
    assert!(!people::su(&mut guest, "ann", plain), "the former one is gone");
    assert!(guest.shell.ok("cat /etc/shadow").contains(&format!("\nann:{hash}:")));

    // Refused by somebody: the text says by whom and why.
    let unknown = set_password(&mut agent, "nosuchuser", "Indigo 99", false).expect_err("nobody of that name");
    assert!(unknown.contains("set user password") && unknown.contains("nosuchuser"), "{unknown}");
    let broken = set_password(&mut agent, "ann", "Indigo 99\nroot:x", false).expect_err("two lines");
    assert_eq!(broken, "forbidden characters in raw password");
    guest
        .shell
        .ok("cp /etc/pam.d/chpasswd /run/chpasswd.pam; echo 'password requisite pam_deny.so' >/etc/pam.d/chpasswd");
    let denied = set_password(&mut agent, "ann", "Indigo 99", false).expect_err("PAM said no");
    guest.shell.ok("cp /run/chpasswd.pam /etc/pam.d/chpasswd");
    assert!(denied.contains("ann") && denied.contains("password not changed"), "{denied}");
    assert!(people::su(&mut guest, "ann", "Karmesin 7"), "what was refused changed nothing");

    // Plain and as it came over the wire, in what anybody wrote down.
    let logs = "{ journalctl --no-pager; cat /run/verbose.log /run/hand.log; find /var/log -type f -exec cat {} +; }";
    let secrets = "-e Zinnober -e Indigo -e Karmesin -e pfeffer -e Wmlubm9iZXI6 -e SW5kaWdv -e JDYkcGZlZmZlci";
    let leaked = guest.shell.run(&format!("{logs} | grep -aF {secrets}"));
    assert_eq!((leaked.status, leaked.text.as_str()), (1, ""), "a secret is in a log");
    guest.shell.ok("grep -q 'guest-set-user-password called: user .*ann' /run/verbose.log");
    by_hand::stop(&mut guest);
}
