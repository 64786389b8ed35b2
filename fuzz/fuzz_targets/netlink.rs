//! Dumps of links, addresses and routes: no panic, whatever the kernel sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qemu_ga::host::fake::FakeKernel;
use qemu_ga::host::linux::netlink;

fuzz_target!(|data: &[u8]| {
    let kernel = FakeKernel::default();
    let datagram = data.to_vec();
    kernel.route(move |_| Ok(vec![datagram.clone()]));
    let _ = netlink::interfaces(&kernel);
    let _ = netlink::ways::Ways::read(&kernel);
});
