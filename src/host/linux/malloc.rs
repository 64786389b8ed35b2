//! How much memory the process holds on to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::unistd::{SysconfVar, sysconf};

/// Makes memory of large requests go back to the system, and worker threads share one arena.
///
/// The defaults raise their thresholds with the first large buffer and give each thread an arena of
/// its own: an agent that once moved a file would keep tens of megabytes for ever.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
        /// Above this a buffer is mapped by itself and unmapped when it is freed; pieces of
        /// streamed replies stay below, so that they are not mapped again and again.
        const LARGE: i32 = 1 << 20;
        // SAFETY: mallopt only sets numbers, and no other thread runs yet.
        #[expect(unsafe_code, reason = "C library call")]
        unsafe {
            mallopt(M_ARENA_MAX, 1);
            mallopt(M_MMAP_THRESHOLD, LARGE);
            mallopt(M_TRIM_THRESHOLD, LARGE);
        }
    }
}

/// Something large was given back, or the start is over.
static SETTLE: AtomicBool = AtomicBool::new(false);

/// How many want memory to stay.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// So much free heap is there while memory is kept.
#[cfg(target_env = "gnu")]
const RESERVE: usize = 768 << 10;

/// From now on memory is not given back, and there is some free heap; or again as ever.
pub fn keep(on: bool) {
    if !on {
        KEPT.fetch_sub(1, Ordering::SeqCst);
        settle_at_rest();
        return;
    }
    KEPT.fetch_add(1, Ordering::SeqCst);
    // Below the thresholds of `tune`, so that what is freed stays, pages and all.
    #[cfg(target_env = "gnu")]
    {
        let mut reserve = vec![0_u8; RESERVE];
        reserve.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        std::hint::black_box(&mut reserve);
    }
}

/// Has [`resting`] give memory back, the next time.
pub fn settle_at_rest() {
    SETTLE.store(true, Ordering::Relaxed);
}

/// To be called by the loop just before it waits: what runs after this comes back into memory.
pub fn resting() {
    if KEPT.load(Ordering::SeqCst) == 0 && SETTLE.swap(false, Ordering::Relaxed) {
        settle();
    }
}

/// Gives back what only the start needed: free heap, the depth of the stack, and the code that reads
/// options and settings, binds libraries and so on.
///
/// An agent waits nearly all its life, on hosts with thousands of guests. The code comes back from
/// the page cache, page by page, where it is needed again.
fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free memory.
    #[expect(unsafe_code, reason = "C library call")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(|line| pristine(line).or_else(|| spent_stack(line))) {
        // SAFETY: the range is a mapping of a file that nobody may write to and that is as it is in
        // the file, so nothing is lost with its pages; or it is stack that nobody uses.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe {
            nix::libc::madvise(start as *mut nix::libc::c_void, end - start, nix::libc::MADV_DONTNEED);
        }
    }
}

/// The part of the first thread's stack that is deeper than it is now; only if that thread asks.
fn spent_stack(line: &str) -> Option<(usize, usize)> {
    /// More than the calls from here may use.
    const MARGIN: usize = 8 << 10;
    let (start, end) = range(line).filter(|_| line.ends_with("[stack]"))?;
    let page = usize::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    let here = (&raw const line).addr();
    // The kernel rounds an end inside of a page up.
    let unused = here.checked_sub(MARGIN)? / page * page;
    (start..end).contains(&here).then_some((start, unused)).filter(|(start, unused)| start < unused)
}

/// The range of a line of `/proc/self/maps` that holds code or constants as they are in the file.
/// Those at the head of a file are; what is read-only further on was written to when it was
/// relocated, and would be lost.
fn pristine(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (mode, offset) = (fields.next()?, fields.next()?);
    let path = fields.nth(2)?;
    let pristine = mode == "r-xp" || (mode == "r--p" && offset == "00000000");
    if !pristine || !path.starts_with('/') {
        return None;
    }
    range(line)
}

/// `55d0c0a00000-55d0c0b00000` at the start of a line.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let line = |mode: &str, offset: &str, path: &str| {
            format!("55d0c0a00000-55d0c0b00000 {mode} {offset} fe:00 1234  {path}")
        };
        let range = Some((0x55d0_c0a0_0000, 0x55d0_c0b0_0000));
        assert_eq!(pristine(&line("r-xp", "00001000", "/usr/sbin/qemu-ga")), range);
        assert_eq!(pristine(&line("r--p", "00000000", "/lib/libc.so.6")), range);
        assert_eq!(pristine(&line("r--p", "00367000", "/usr/sbin/qemu-ga")), None, "it was relocated");
        assert_eq!(pristine(&line("rw-p", "00000000", "/usr/sbin/qemu-ga")), None);
        assert_eq!(pristine(&line("r-xp", "00000000", "[vdso]")), None);
        assert_eq!(pristine(&line("r-xp", "00000000", "")), None);
        assert_eq!(pristine(""), None);
        assert_eq!(spent_stack("7ffc61d5a000-7ffc61d7b000 rw-p 00000000 00:00 0  [stack]"), None, "not this thread's");
        // The code we run comes back.
        settle();
        settle();
    }
}
