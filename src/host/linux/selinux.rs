//! SELinux labels of files that we replace or make. Without SELinux all of this does nothing.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;

const LABEL: &CStr = c"security.selinux";

/// There while SELinux is on.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// Labels are below 4 KiB in every policy.
const LABEL_LIMIT: usize = 4096;

/// Gives a new file the label of the one it replaces. A policy may forbid it; then the label that
/// the directory gives stays.
#[expect(unsafe_code, reason = "no safe wrapper")]
pub fn copy_label(from: &File, to: &File) {
    let mut label = [0_u8; LABEL_LIMIT];
    // SAFETY: the kernel writes at most the given size, and reads what it wrote before.
    unsafe {
        let size = libc::fgetxattr(from.as_raw_fd(), LABEL.as_ptr(), label.as_mut_ptr().cast(), LABEL_LIMIT);
        if let Ok(size @ 1..) = usize::try_from(size) {
            libc::fsetxattr(to.as_raw_fd(), LABEL.as_ptr(), label.as_ptr().cast(), size, 0);
        }
    }
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
