//! What logind is really asked, as it goes over the bus.

use crate::harness::guest::Guest;

/// On a disk of the guest, to be read after a reboot.
const LOG: &str = "/home/bus.log";

/// Note every call to logind's manager from now on.
pub fn listen(guest: &mut Guest) {
    guest.shell.ok(&format!(
        "pkill -x dbus-monitor; rm -f {LOG}; \
         dbus-monitor --system \"type='method_call',interface='org.freedesktop.login1.Manager'\" >{LOG} 2>&1 &"
    ));
    // It says so itself when the bus has made it a monitor: it loses its name.
    guest.shell.until("the bus is listened to", &format!("grep -q NameLost {LOG}"));
}

/// That the method was called, and nothing else was: logind did it at once.
pub fn assert_asked(guest: &mut Guest, methods: &[&str]) {
    let said = guest.shell.ok(&format!("cat {LOG}; rm -f {LOG}"));
    let calls =
        said.lines().filter_map(|line| line.split_once("login1.Manager; member=").map(|(_, member)| member.trim()));
    assert_eq!(calls.collect::<Vec<_>>(), methods, "{said}");
}
