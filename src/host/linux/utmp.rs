//! Who is logged in, by the records of login programs: utmp(5).

use std::time::Duration;

use crate::host::Host;

const UTMP: &str = "/run/utmp";
const OLD_UTMP: &str = "/var/run/utmp";

/// `USER_PROCESS`, a normal session.
const USER_PROCESS: i16 = 7;

const USER: usize = 44;
const USER_SIZE: usize = 32;

/// Where the time stands, and the size of a record: glibc's layout, whatever libc we have, since
/// glibc's programs write the file. Most targets keep 32 bits for the sake of old programs.
#[cfg(any(target_arch = "aarch64", target_arch = "s390x", target_arch = "loongarch64"))]
const LAYOUT: Layout = Layout::WIDE;
#[cfg(not(any(target_arch = "aarch64", target_arch = "s390x", target_arch = "loongarch64")))]
const LAYOUT: Layout = Layout::NARROW;

#[derive(Clone, Copy)]
#[allow(dead_code, reason = "one of the two is another target's")]
struct Layout {
    size: usize,
    time: usize,
    wide: bool,
}

#[allow(dead_code, reason = "one of the two is another target's")]
impl Layout {
    const NARROW: Layout = Layout { size: 384, time: 340, wide: false };
    const WIDE: Layout = Layout { size: 400, time: 344, wide: true };
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name of the user.
    pub user: String,
    /// When the session began, since 1970.
    pub since: Duration,
}

/// The sessions in the file; none when there is no file, as on systems without utmp.
pub fn logins(host: &Host) -> Vec<Login> {
    let old = |error| if host.has_one_run() { Err(error) } else { host.read(OLD_UTMP) };
    parse(&host.read(UTMP).or_else(old).unwrap_or_default(), LAYOUT)
}

fn parse(file: &[u8], layout: Layout) -> Vec<Login> {
    file.chunks_exact(layout.size).filter_map(|record| login(record, layout)).collect()
}

fn login(record: &[u8], layout: Layout) -> Option<Login> {
    if i16::from_ne_bytes(bytes(record, 0)?) != USER_PROCESS {
        return None;
    }
    // A name that fills its field has no NUL; what follows is the host.
    let name = record.get(USER..USER + USER_SIZE)?.split(|byte| *byte == 0).next()?;
    if name.is_empty() {
        return None;
    }
    let (seconds, micros) = if layout.wide {
        let seconds = i64::from_ne_bytes(bytes(record, layout.time)?);
        let micros = i64::from_ne_bytes(bytes(record, layout.time + 8)?);
        (u64::try_from(seconds).ok()?, u64::try_from(micros).ok()?)
    } else {
        // Unsigned, so good until 2106.
        let seconds = u32::from_ne_bytes(bytes(record, layout.time)?);
        let micros = u32::from_ne_bytes(bytes(record, layout.time + 4)?);
        (seconds.into(), micros.into())
    };
    let since = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    Some(Login { user: String::from_utf8_lossy(name).into_owned(), since })
}

fn bytes<const N: usize>(record: &[u8], at: usize) -> Option<[u8; N]> {
    record.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with these records: type, user, seconds, microseconds.
    pub(crate) fn file(records: &[(i16, &[u8], u32, u32)]) -> Vec<u8> {
        write(records, LAYOUT)
    }

    fn write(records: &[(i16, &[u8], u32, u32)], layout: Layout) -> Vec<u8> {
        let mut file = Vec::new();
        for (kind, user, seconds, micros) in records {
            let mut record = vec![0; layout.size];
            record[..2].copy_from_slice(&kind.to_ne_bytes());
            record[USER..USER + user.len()].copy_from_slice(user);
            record[76..80].copy_from_slice(b"host");
            if layout.wide {
                let at = layout.time;
                record[at..at + 8].copy_from_slice(&i64::from(*seconds).to_ne_bytes());
                record[at + 8..at + 16].copy_from_slice(&i64::from(*micros).to_ne_bytes());
            } else {
                record[340..344].copy_from_slice(&seconds.to_ne_bytes());
                record[344..348].copy_from_slice(&micros.to_ne_bytes());
            }
            file.extend(record);
        }
        file
    }

    #[test]
    fn only_user_processes_with_a_name_count() {
        for layout in [Layout::NARROW, Layout::WIDE] {
            let file = write(
                &[
                    (2, b"reboot", 1, 0),
                    (7, b"ann", 1_700_000_060, 250_000),
                    (7, b"", 5, 0),
                    (8, b"gone", 5, 0),
                    (7, b"late", u32::MAX, 0),
                ],
                layout,
            );
            let found = parse(&file, layout);
            let login = |user: &str, millis| Login { user: user.to_owned(), since: Duration::from_millis(millis) };
            assert_eq!(found, [login("ann", 1_700_000_060_250), login("late", 4_294_967_295_000)]);
        }
    }

    #[test]
    fn a_name_of_32_bytes_does_not_run_into_the_host() {
        let found = parse(&write(&[(7, &[b'A'; 32], 1, 0)], Layout::NARROW), Layout::NARROW);
        assert_eq!(found[0].user, "A".repeat(32));
    }

    #[test]
    fn a_cut_record_is_left_out() {
        let file = write(&[(7, b"ann", 1, 0), (7, b"bob", 2, 0)], Layout::NARROW);
        assert_eq!(parse(&file[..767], Layout::NARROW).len(), 1);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(file in proptest::collection::vec(any::<u8>(), 0..1200)) {
            parse(&file, Layout::NARROW);
            parse(&file, Layout::WIDE);
        }

        #[test]
        fn no_record_makes_it_panic(mut rest in proptest::collection::vec(any::<u8>(), 400)) {
            rest[..2].copy_from_slice(&USER_PROCESS.to_ne_bytes());
            parse(&rest, Layout::NARROW);
            parse(&rest, Layout::WIDE);
        }
    }
}
