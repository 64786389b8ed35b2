//! Agents that were killed in the middle of `FIFREEZE`.
//!
//! Such a process ends only when the call does, and what that freezes stays frozen. A thaw that comes
//! before finds nothing to thaw there: the file system is neither the one nor the other yet.

use std::ffi::OsStr;

use crate::host::Host;

/// `SIGKILL` in a set of signals; each thread of a process that is ending has it.
const KILLED: u64 = 1 << (nix::libc::SIGKILL - 1);

/// The number of a killed agent of which a thread still is in a system call.
pub(super) fn agent(host: &Host) -> Option<u32> {
    let me = std::process::id();
    let numbers = host.list("/proc").ok()?.into_iter().filter_map(|name| number(&name));
    numbers.filter(|&pid| pid != me).find(|&pid| is_agent(host, pid) && is_dying(host, pid))
}

fn number(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// By its name and user: the program of one that is ending cannot be told any more.
fn is_agent(host: &Host, pid: u32) -> bool {
    let name = host.read_text(format!("/proc/{pid}/comm")).unwrap_or_default();
    let own = || host.read_text("/proc/self/comm").is_ok_and(|own| own == name);
    (name == "qemu-ga\n" || own()) && user(host, pid) == Some(nix::unistd::geteuid().as_raw())
}

fn user(host: &Host, pid: u32) -> Option<u32> {
    let status = host.read_text(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().next()?.parse().ok()
}

/// Whether one of its threads has been killed and goes on: it is in the kernel. That the process
/// itself is a zombie says nothing about its other threads.
fn is_dying(host: &Host, pid: u32) -> bool {
    let threads = host.list(format!("/proc/{pid}/task")).unwrap_or_default();
    threads.iter().filter_map(|name| number(name)).any(|thread| {
        let status = host.read_text(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let ended = field("State:").starts_with(['Z', 'X']);
        let signals = u64::from_str_radix(field("SigPnd:"), 16).unwrap_or_default();
        !ended && signals & KILLED != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Machine;

    /// A process 4711 with this name and user, and threads in these states with these signals.
    fn machine(name: &str, user: u32, threads: &[(&str, &str)]) -> Machine {
        let machine = Machine::new("");
        machine.file("/proc/4711/comm", format!("{name}\n"));
        machine.file("/proc/4711/status", format!("Name:\t{name}\nUid:\t{user}\t{user}\t{user}\t{user}\n"));
        for (at, (state, signals)) in threads.iter().enumerate() {
            let text = format!("Name:\tfreeze\nState:\t{state}\nSigPnd:\t{signals}\nShdPnd:\t0000000000000100\n");
            machine.file(&format!("/proc/4711/task/{}/status", 4711 + at), &text);
        }
        machine
    }

    #[test]
    fn only_a_killed_agent_with_a_thread_in_the_kernel_counts() {
        const KILL: &str = "0000000000000100";
        const NONE: &str = "0000000000000000";
        let me = nix::unistd::geteuid().as_raw();
        let both = [("Z (zombie)", KILL), ("D (disk sleep)", KILL)];
        assert_eq!(agent(&machine("qemu-ga", me, &both).host()), Some(4711));
        assert_eq!(agent(&machine("another", me, &both).host()), None);
        assert_eq!(agent(&machine("qemu-ga", me + 1, &both).host()), None, "anybody may take the name");
        assert_eq!(agent(&machine("qemu-ga", me, &[("D (disk sleep)", NONE)]).host()), None, "it lives");
        assert_eq!(agent(&machine("qemu-ga", me, &[("Z (zombie)", KILL)]).host()), None, "it is over");
        assert_eq!(agent(&Machine::new("").host()), None);
    }
}
