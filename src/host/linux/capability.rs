//! What this process may do: `CapEff` in `/proc/self/status` (capabilities(7)).

use crate::host::Host;

/// `CAP_SYS_ADMIN` in linux/capability.h.
const SYS_ADMIN: u32 = 21;

/// Whether the process may freeze file systems; false when that cannot be told.
pub fn may_administer(host: &Host) -> bool {
    let status = host.read_text("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use crate::host::fixture::Machine;

    #[test]
    fn the_effective_set_counts() {
        let may = |status: &str| super::may_administer(&Machine::new(status).host());
        assert!(may("/proc/self/status:\n| CapPrm:\t0\n| CapEff:\t000001ffffffffff"));
        assert!(!may("/proc/self/status:\n| CapPrm:\t000001ffffffffff\n| CapEff:\t0000000000000000"));
        assert!(!may("/proc/self/status -> CapEff:\tx"));
        assert!(!may("/proc/"));
    }
}
