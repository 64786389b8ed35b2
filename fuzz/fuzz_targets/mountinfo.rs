//! The table of mounts and those of routes, processors and memory: no panic, whatever the kernel says.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qemu_ga::host::Host;
use qemu_ga::host::fake::FakeKernel;
use qemu_ga::host::linux::{cpu, mounts, route};

static GUEST: LazyLock<(Host, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    for directory in ["/proc/self", "/proc/net"] {
        fs::create_dir_all(host.path(directory)).expect("a directory");
    }
    (host, dir)
});

fuzz_target!(|data: &[u8]| {
    let (host, _) = &*GUEST;
    for path in ["/proc/self/mountinfo", route::IPV4, route::IPV6, cpu::TIMES] {
        fs::write(host.path(path), data).expect("a file");
    }
    mounts::all(host).expect("a list");
    let mut tables = route::Tables::open(host).expect("tables");
    while tables.next(&mut |_| {}) {}
    cpu::times(host).expect("a list");
});
