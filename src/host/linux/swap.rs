//! Where memory is swapped out to: `/proc/swaps` (proc(5)).

use crate::host::Host;

/// Swap devices that are files in truth. A plain swap file is written around its file system, which
/// a freeze does not stop; a loop device writes through it, which a freeze does stop.
pub fn on_loop_devices(host: &Host) -> Vec<String> {
    let table = host.read_text("/proc/swaps").unwrap_or_default();
    let devices = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    devices.filter(|device| device.starts_with("/dev/loop")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use crate::host::fixture::Machine;

    #[test]
    fn only_loop_devices_are_stopped_by_a_freeze() {
        let table = "/proc/swaps:\n| Filename\tType\tSize\tUsed\tPriority\n| /dev/vda5 partition 1 0 -2\n\
            | /swapfile file 1 0 -3\n| /dev/loop3 partition 1 0 -4\n";
        assert_eq!(super::on_loop_devices(&Machine::new(table).host()), ["/dev/loop3"]);
        assert!(super::on_loop_devices(&Machine::new("/proc/").host()).is_empty());
    }
}
