//! Memory that can be had only by writing to a frozen disk.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::guest::Guest;
use crate::harness::machine::Init;
use crate::harness::{SOON, until};
use crate::shared;

const NONE: &Value = &Value::Null;

/// So long somebody wants more memory than there is.
const HUNGRY: Duration = Duration::from_secs(20);

/// Starts one process that takes all memory and 80 MB more as soon as `/run/go` is written to, and another
/// that has the kernel kill the first, by SysRq-f, as soon as a byte comes over the serial line; until then the
/// kernel may not. Then it says on the console what the kernel counts. Neither it nor the second opens or starts
/// anything after the first count, and both are locked in memory.
const WATCH: &str = r#"
my ($mb) = @ARGV;
my $hog = fork;
if (!$hog) { open my $go, '<', '/run/go'; <$go>; exec 'dd', 'if=/dev/zero', 'of=/dev/null', "bs=${mb}M", 'count=99999' }
pipe my $ready, my $report;
if (!fork) {
    open my $line, '<', '/dev/ttyS1' or die;
    open my $score, '>', "/proc/$hog/oom_score_adj" or die;
    open my $sysrq, '>', '/proc/sysrq-trigger' or die;
    syscall(151, 3) == 0 or die; # mlockall
    syswrite $report, '.';
    sysread $line, my $byte, 1;
    syswrite $score, '1000';
    syswrite $sysrq, 'f';
    exit;
}
close $report;
sysread($ready, my $byte, 1) == 1 or die;
open my $counts, '<', '/proc/vmstat' or die;
open my $console, '>', '/dev/ttyS0' or die;
syscall(151, 3) == 0 or die;
while (1) {
    sysseek $counts, 0, 0;
    sysread $counts, my $text, 65536;
    my ($out) = $text =~ /^pswpout (\d+)$/m;
    my ($writing) = $text =~ /^nr_writeback (\d+)$/m;
    syswrite $console, "\nMEMORY out=$out writing=$writing .\n";
    select undef, undef, undef, 0.5;
}
"#;

/// What was counted at a moment, in pages.
#[derive(Clone, Copy, Debug)]
struct Counts {
    swapped_out: u64,
    being_written: u64,
}

fn parse(line: &str) -> Option<Counts> {
    let line = line.strip_prefix("MEMORY ")?.trim_end().strip_suffix('.')?;
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.parse().ok());
    Some(Counts { swapped_out: field("out=")?, being_written: field("writing=")? })
}

fn counted(guest: &Guest) -> Vec<Counts> {
    guest.console().lines().filter_map(parse).collect()
}

/// Swap on a loop device whose file lies on the root stops with the freeze, and so does everything that
/// needs a page of memory: a thread that the thaw had to start would.
#[test]
fn a_thaw_is_answered_when_all_memory_waits_for_the_frozen_disk() {
    if shared::known_of_stock("not tried") {
        return;
    }
    let Some(mut guest) = shared::own(Init::Systemd) else { return };
    // All of the file is there: nothing has to be looked for when it is written to.
    guest.shell.ok("swapoff -a; modprobe loop; dd if=/dev/zero of=/swap.img bs=1M count=400 2>&1 && sync && \
        losetup /dev/loop7 /swap.img && mkswap /dev/loop7 && swapon /dev/loop7 && mkfifo /run/go");
    let mut agent = guest.agent();
    agent.sync(SOON);
    let total = guest.shell.ok("awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo");
    let hunger = total.parse::<u64>().expect("a number") + 80;
    // A unit of its own, as systemd ends all of one of which something was killed.
    let unit = "systemd-run --quiet --unit=hungry -p OOMScoreAdjust=-1000 perl /run/watch";
    guest.shell.ok(&format!("cat >/run/watch <<'END'\n{WATCH}END\n{unit} {hunger}"));
    until("the counts are seen", SOON, || (counted(&guest).len() > 2).then_some(()));

    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    let before = counted(&guest).pop().expect("seen above");
    guest.shell.ok("echo >/run/go");
    until("memory is to be written to the frozen disk", SOON, || {
        let now = counted(&guest).pop()?;
        (now.swapped_out > before.swapped_out && now.being_written > 0).then_some(())
    });
    let first = counted(&guest).len() - 1;
    let end = Instant::now() + HUNGRY;
    while Instant::now() < end {
        assert_eq!(agent.get("guest-ping", NONE), json!({}));
        assert_eq!(agent.get("guest-fsfreeze-status", NONE), "frozen");
    }
    // It says so little when it has to wait for memory itself.
    let waited = counted(&guest).split_off(first);
    let start = Instant::now();
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);
    let thaw = start.elapsed();
    assert_eq!(agent.get("guest-fsfreeze-status", NONE), "thawed");
    assert!(waited.iter().all(|now| now.being_written > 0), "thawed after {thaw:?}: {waited:?}");

    // Swap in a file may never come round by itself: the kernel needs memory to write to the file.
    guest.serial().send(b"\n");
    let killed = "dmesg | grep -q 'Killed process' && dmesg | grep -E 'Manual OOM|Killed process'";
    let killed = guest.shell.until("a process is killed", killed);
    let last = waited.last();
    let _ = writeln!(std::io::stderr(), "thawed after {thaw:?}; before: {before:?}; while frozen: {last:?}; {killed}");
    let mut killed = killed.lines();
    assert!(killed.next().is_some_and(|line| line.contains("Manual OOM")), "the kernel had killed before");
    assert!(killed.next().is_some_and(|line| line.contains("(dd)")), "it did not wait any more");
    guest.shell.ok("sync; touch /after /home/after /srv/after && sync");
}
