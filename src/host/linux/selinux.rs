//! SELinux: labels of files that we replace or make, and what the policy lets the agent do. Without
//! SELinux all of this does nothing.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;

use crate::host::Host;

const LABEL: &CStr = c"security.selinux";

/// There while SELinux is on.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// The context of the thread that reads it: no policy has a say in that, as it has in others'.
const CURRENT: &str = "/proc/thread-self/attr/current";

/// Labels are below 4 KiB in every policy.
const LABEL_LIMIT: usize = 4096;

/// The domain that the policies of Fedora, RHEL and their kin give the agent.
const DOMAIN: &str = "system_u:system_r:virt_qemu_ga_t:s0";

/// The label of an open file; nothing without SELinux.
#[expect(unsafe_code, reason = "no safe wrapper")]
pub fn label(file: &File) -> Option<String> {
    let mut label = vec![0_u8; LABEL_LIMIT];
    // SAFETY: the kernel writes at most the given size.
    let size = unsafe { libc::fgetxattr(file.as_raw_fd(), LABEL.as_ptr(), label.as_mut_ptr().cast(), LABEL_LIMIT) };
    label.truncate(usize::try_from(size).ok()?);
    let label = String::from_utf8(label).ok()?;
    Some(label.trim_end_matches('\0').to_owned())
}

/// Which of these permissions an enforced policy does not give the agent on what has this label; as
/// text, for an explanation. Nothing when all are given or nothing is enforced.
///
/// Asked of the kernel through `/sys/fs/selinux/access` (selinux(8), `security_compute_av(3)`).
pub fn denied(host: &Host, label: &str, class: &str, permissions: &[&str]) -> Option<String> {
    if host.read_attribute(ENFORCE).ok()? != "1" {
        return None;
    }
    let number = |path: String| host.read_attribute(path).ok()?.parse::<u32>().ok();
    let directory = format!("/sys/fs/selinux/class/{class}");
    let index = number(format!("{directory}/index"))?;
    let mut access = File::options().read(true).write(true).open(host.path("/sys/fs/selinux/access")).ok()?;
    // A label or domain that the policy does not know is refused here: then there is no such confinement.
    access.write_all(format!("{DOMAIN} {label} {index}").as_bytes()).ok()?;
    let mut answer = [0; 256];
    let length = access.read(&mut answer).ok()?;
    let given = allowed(std::str::from_utf8(&answer[..length]).ok()?)?;
    let is_denied = |permission: &&&str| {
        let bit = number(format!("{directory}/perms/{permission}")).and_then(|bit| bit.checked_sub(1));
        bit.is_some_and(|bit| given.checked_shr(bit).is_some_and(|rest| rest & 1 == 0))
    };
    let denied: Vec<&str> = permissions.iter().filter(is_denied).copied().collect();
    (!denied.is_empty()).then(|| format!("the agent {} a {class} labelled {label}", denied.join(", ")))
}

/// The first field of `allowed decided auditallow auditdeny seqno flags`, in hexadecimal.
fn allowed(answer: &str) -> Option<u32> {
    u32::from_str_radix(answer.split_ascii_whitespace().next()?.trim_end_matches('\0'), 16).ok()
}

/// Whether this process is confined as the agent.
pub fn is_confined(host: &Host) -> bool {
    let is_domain = |now: &str| now.split(':').nth(2) == DOMAIN.split(':').nth(2);
    host.read_attribute(CURRENT).is_ok_and(|now| is_domain(&now))
}

/// Gives a new file the label of the one it replaces, unless it has that already: the attempt alone
/// is logged where a policy forbids it, and then the label that the directory gives stays.
#[expect(unsafe_code, reason = "no safe wrapper")]
pub fn copy_label(from: &File, to: &File) {
    let Some(wanted) = label(from).filter(|wanted| label(to).as_ref() != Some(wanted)) else { return };
    let Ok(wanted) = CString::new(wanted) else { return };
    let bytes = wanted.as_bytes_with_nul();
    // SAFETY: the kernel reads the given size of what `wanted` holds.
    unsafe { libc::fsetxattr(to.as_raw_fd(), LABEL.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0) };
}

/// Gives new files the label that the policy has for their paths.
pub fn restore(paths: &[&Path]) {
    if !Path::new(ENFORCE).exists() {
        return;
    }
    for program in ["/usr/sbin/restorecon", "/sbin/restorecon"] {
        let mut command = Command::new(program);
        command.args(paths).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Machine;

    /// A file in place of the kernel's: what is read after the question was written is its rest.
    fn policy(enforce: &str, given: &str) -> Machine {
        let machine =
            Machine::new(&format!("/sys/fs/selinux/enforce -> {enforce}\n/sys/fs/selinux/class/dir/index -> 7"));
        for (bit, name) in ["ioctl", "read", "write"].iter().enumerate() {
            machine.file(&format!("/sys/fs/selinux/class/dir/perms/{name}"), (bit + 1).to_string());
        }
        let question = format!("{DOMAIN} a:b:c 7");
        machine.file("/sys/fs/selinux/access", "x".repeat(question.len()) + given);
        machine
    }

    #[test]
    fn what_the_policy_does_not_give_is_named() {
        let ask = |machine: Machine| denied(&machine.host(), "a:b:c", "dir", &["read", "ioctl"]);
        assert_eq!(ask(policy("1", "3 ffffffff 0 ffffffff 1 0")), None);
        let text = "the agent ioctl a dir labelled a:b:c";
        assert_eq!(ask(policy("1", "fffffffe ffffffff 0 ffffffff 1 0")).as_deref(), Some(text));
        assert_eq!(ask(policy("0", "0 ffffffff 0 ffffffff 1 0")), None, "permissive");
        assert_eq!(ask(policy("1", "junk")), None);
        assert_eq!(ask(Machine::new("/sys/")), None, "no SELinux");
    }
}
