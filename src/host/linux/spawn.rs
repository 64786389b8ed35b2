//! Starts programs whose end nobody waits for at once: the children of `guest-exec`.
//!
//! A child shares our memory until it has executed its program, as with `vfork`, so that starting
//! one costs the same however much memory the agent holds. Until then it may only make system
//! calls: everything it needs is laid out before, and nothing in it may allocate, lock or panic.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::Once;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc::{self, c_char, c_int, c_uint, c_void};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::descriptors;

mod account;

/// Where programs are looked for when there is no `PATH` at all.
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest name that a directory of Linux can hold.
const NAME_MAX: usize = 255;

/// Runs text files without `#!`, as `execvp` has it.
const SHELL: &CStr = c"/bin/sh";

/// What the child runs on until it executes its program. The kernel touches little of it.
const STACK: usize = 64 << 10;

/// How many signals there are.
const LAST_SIGNAL: c_int = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 128 } else { 64 };

/// A program to start.
#[derive(Default)]
pub struct Program<'a> {
    /// The program and its `argv[0]`; without a slash it is looked for in `PATH`.
    pub path: &'a str,
    /// Another `argv[0]`.
    pub name: Option<&'a str>,
    /// What follows `argv[0]`.
    pub args: &'a [&'a str],
    /// The whole environment; `None` is ours, with what a login would have set where the service
    /// manager did not ([`account`]). Its `PATH`, if there is one, is searched.
    pub env: Option<&'a [&'a str]>,
    /// Standard input, output and error; `None` is `/dev/null`.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this number.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was no child of ours, and the system does not tell.
    Unknown,
}

impl Program<'_> {
    /// Starts the program and returns when it runs.
    ///
    /// It leads a session of its own, has default signals, no descriptor but the first three, no
    /// share in the agent's protection against the OOM killer, and makes no file that others may
    /// write. Its id stays in use until [`reap`] was called.
    ///
    /// # Errors
    /// The system's reason why the program cannot be executed.
    pub fn spawn(&self) -> io::Result<Pid> {
        keep_zombies();
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut high = Vec::new();
        let mut stdio = [0; 3];
        for (slot, fd) in stdio.iter_mut().zip(self.stdio) {
            *slot = above_stdio(fd.map_or(null.as_raw_fd(), |fd| fd.as_raw_fd()), &mut high)?;
        }

        let name = CString::new(self.name.unwrap_or(self.path))?;
        let args = self.args.iter().map(|arg| CString::new(*arg)).collect::<Result<Vec<_>, _>>()?;
        let env = self.environment()?;
        let candidates = self.candidates(&env)?;
        let pointers = |head: &[*const c_char], list: &[CString]| -> Vec<*const c_char> {
            head.iter().copied().chain(list.iter().map(|s| s.as_ptr())).chain([ptr::null()]).collect()
        };
        let mut plan = Plan {
            candidates: candidates.iter().map(|path| path.as_ptr()).collect(),
            argv: pointers(&[name.as_ptr()], &args),
            shell_argv: pointers(&[SHELL.as_ptr(), ptr::null()], &args),
            envp: pointers(&[], &env),
            stdio,
            files: descriptors::limit_of_children().map(|(rlim_cur, rlim_max)| libc::rlimit { rlim_cur, rlim_max }),
            ignored: ignored_signals(),
            oom_score: oom_score_is_lowered(),
            errno: 0,
        };
        let pid = plan.run()?;
        if plan.errno != 0 {
            let _ = reap(pid);
            return Err(io::Error::from_raw_os_error(plan.errno));
        }
        Ok(pid)
    }

    fn environment(&self) -> io::Result<Vec<CString>> {
        Ok(match self.env {
            Some(env) => env.iter().map(|entry| CString::new(*entry)).collect::<Result<_, _>>()?,
            None => account::environment().map(CString::new).collect::<Result<_, _>>()?,
        })
    }

    /// The files to try, in order.
    fn candidates(&self, env: &[CString]) -> io::Result<Vec<CString>> {
        if self.path.is_empty() || self.path.contains('/') {
            return Ok(vec![CString::new(self.path)?]);
        }
        // No directory can hold it; a path that is too long only means the next directory.
        if self.path.len() > NAME_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        let of_env = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
        let path = match of_env {
            Some(path) => OsStr::from_bytes(path).to_owned(),
            None => std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
        };
        let full = |dir: std::path::PathBuf| CString::new(dir.join(self.path).into_os_string().into_vec());
        Ok(std::env::split_paths(&path).map(full).collect::<Result<_, _>>()?)
    }
}

/// All that the child needs, ready to use.
struct Plan {
    /// Null-terminated strings that outlive the plan, as all pointers here.
    candidates: Vec<*const c_char>,
    /// Ends with a null pointer, as the two below.
    argv: Vec<*const c_char>,
    /// For a script without `#!`; the second element is for the script's path.
    shell_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// All above 2.
    stdio: [c_int; 3],
    /// How many files it may have open.
    files: Option<libc::rlimit>,
    /// Signals to be reset.
    ignored: &'static [c_int],
    /// Write 0 to our `oom_score_adj`.
    oom_score: bool,
    /// Written by the child when it could not execute anything.
    errno: c_int,
}

impl Plan {
    fn run(&mut self) -> io::Result<Pid> {
        let mut stack: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(STACK);
        // No handler of ours may run in the child, which shares our memory.
        let mask = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        #[expect(unsafe_code, reason = "no safe way to start a process that shares our memory")]
        // SAFETY: CLONE_VFORK suspends this thread until the child has executed a program or is
        // gone, so the plan and the stack outlive their use; the child writes nothing but its stack
        // and the plan, which we look at only afterwards. The stack grows down from its end, which
        // `clone` aligns.
        let pid = unsafe {
            libc::clone(
                child,
                stack.as_mut_ptr_range().end.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                ptr::from_mut(self).cast(),
            )
        };
        let pid = Errno::result(pid);
        mask.thread_set_mask()?;
        Ok(Pid::from_raw(pid?))
    }
}

/// The child between its birth and its program: system calls only.
#[expect(unsafe_code, reason = "see the SAFETY comments")]
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the parent passes its plan and is suspended, so nobody else uses it.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: system calls on memory that the plan keeps alive; they touch this process only.
    // Signals are blocked until none has a handler any more.
    unsafe {
        libc::setsid();
        default_signals(plan.ignored);
        for (target, fd) in (0..).zip(plan.stdio) {
            if libc::dup2(fd, target) < 0 {
                return fail(plan, Errno::last_raw());
            }
        }
        close_from_3();
        if let Some(files) = &plan.files {
            libc::setrlimit(libc::RLIMIT_NOFILE, files);
        }
        let umask = libc::umask(0o022);
        libc::umask(umask | 0o022);
        if plan.oom_score {
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
            if file >= 0 {
                libc::write(file, c"0".as_ptr().cast(), 1);
                libc::close(file);
            }
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
    let errno = execute(plan);
    fail(plan, errno)
}

/// Tries one file after the other, as `execvp` does; returns why none could be executed.
fn execute(plan: &mut Plan) -> c_int {
    let mut denied = false;
    for &path in &plan.candidates {
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: strings and lists end with a null, and live in the plan.
        unsafe {
            libc::execve(path, plan.argv.as_ptr(), plan.envp.as_ptr());
            if Errno::last_raw() == libc::ENOEXEC {
                if let Some(slot) = plan.shell_argv.get_mut(1) {
                    *slot = path;
                }
                libc::execve(SHELL.as_ptr(), plan.shell_argv.as_ptr(), plan.envp.as_ptr());
            }
        }
        match Errno::last_raw() {
            libc::EACCES => denied = true,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT | libc::ENAMETOOLONG => {}
            errno => return errno,
        }
    }
    match plan.candidates.len() {
        1 => Errno::last_raw(),
        _ if denied => libc::EACCES,
        _ => libc::ENOENT,
    }
}

fn fail(plan: &mut Plan, errno: c_int) -> c_int {
    plan.errno = errno;
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: ends this process at once; `exit` would run the parent's exit handlers.
    unsafe {
        libc::_exit(127)
    }
}

/// Handlers vanish at exec, but what is ignored stays so, and SIGPIPE is.
///
/// # Safety
/// For the child only: it changes what the whole process does with signals.
#[expect(unsafe_code, reason = "see above")]
unsafe fn default_signals(ignored: &[c_int]) {
    // Zeroes are the default action in every architecture's layout. The C library keeps two signals
    // from its callers, and an ignored one of those would be inherited all the same.
    let action = [0_u64; 8];
    for &signal in ignored {
        // SAFETY: reads no more than `action`; numbers that may not be changed are refused.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), ptr::null::<c_void>(), LAST_SIGNAL / 8);
        }
    }
}

/// The signals that are ignored. Whoever starts us may have had it so; after the start it does not
/// change any more. Asked once, since there are 64 of them.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: std::sync::OnceLock<Vec<c_int>> = std::sync::OnceLock::new();
    IGNORED.get_or_init(|| {
        let is_ignored = |signal: &c_int| {
            let mut action = [0_usize; 64 / size_of::<usize>()];
            // SAFETY: writes a `struct sigaction` of the kernel, which `action` has room for on every
            // architecture.
            #[expect(unsafe_code, reason = "no safe wrapper, and the C library hides two signals")]
            unsafe {
                let none = ptr::null::<c_void>();
                libc::syscall(libc::SYS_rt_sigaction, *signal, none, action.as_mut_ptr(), LAST_SIGNAL / 8);
            }
            // The handler is the first member; some architectures have the flags before it.
            action[..2].contains(&libc::SIG_IGN)
        };
        (1..=LAST_SIGNAL).filter(is_ignored).collect()
    })
}

/// Closes what the agent inherited or another thread opened without close-on-exec.
///
/// # Safety
/// For the child only: it closes descriptors that it does not own.
#[expect(unsafe_code, reason = "see above")]
unsafe fn close_from_3() {
    // SAFETY: the child's table of descriptors is its own copy.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, 0) == 0 {
            return;
        }
        // Before Linux 5.9. `sysconf` is a mere getrlimit.
        let last = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 65536);
        for fd in 3..c_int::try_from(last).unwrap_or(256) {
            libc::close(fd);
        }
    }
}

/// The number of a descriptor that can be moved to 0, 1 or 2 without overwriting another one.
fn above_stdio(fd: c_int, keep: &mut Vec<OwnedFd>) -> io::Result<c_int> {
    use std::os::fd::FromRawFd;
    if fd > 2 {
        return Ok(fd);
    }
    #[expect(unsafe_code, reason = "a number that the caller keeps open")]
    // SAFETY: the caller's descriptor is open for the length of the call.
    let fd = fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    #[expect(unsafe_code, reason = "a raw descriptor comes from the call above")]
    // SAFETY: the descriptor is new and nobody else's.
    keep.push(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(fd)
}

/// Whether the agent is protected from the OOM killer. Set before we start, by the service manager.
fn oom_score_is_lowered() -> bool {
    static LOWERED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *LOWERED.get_or_init(|| {
        let score = std::fs::read_to_string("/proc/self/oom_score_adj");
        score.is_ok_and(|score| score.starts_with('-'))
    })
}

/// Who starts us with SIGCHLD ignored would have the kernel throw results away.
fn keep_zombies() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: reads the action, and sets the default one where there is no handler to lose.
        unsafe {
            let mut now = MaybeUninit::<libc::sigaction>::zeroed();
            if libc::sigaction(libc::SIGCHLD, ptr::null(), now.as_mut_ptr()) != 0 {
                return;
            }
            let now = now.assume_init();
            if now.sa_sigaction == libc::SIG_IGN || now.sa_flags & libc::SA_NOCLDWAIT != 0 {
                libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            }
        }
    });
}

/// How a child ended, after which its id may be used again; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is no child of ours, or somebody else waited for it.
pub fn reap_if_ended(pid: Pid) -> io::Result<Option<Exit>> {
    wait(pid, libc::WEXITED | libc::WNOHANG)
}

/// Waits for the end of a child that ends soon.
///
/// # Errors
/// As for [`reap_if_ended`].
pub fn reap(pid: Pid) -> io::Result<Option<Exit>> {
    wait(pid, libc::WEXITED)
}

/// `nix` has no place for children that ended by a real-time signal.
fn wait(pid: Pid, options: c_int) -> io::Result<Option<Exit>> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(|_| Errno::ECHILD)?;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: `info` is large enough; a zeroed one says that nothing ended.
        let (result, info) = unsafe { (libc::waitid(libc::P_PID, id, info.as_mut_ptr(), options), info.assume_init()) };
        match Errno::result(result) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        #[expect(unsafe_code, reason = "the fields lie in a union")]
        // SAFETY: for SIGCHLD, and for none, these fields are there.
        let (ended, status) = unsafe { (info.si_pid() != 0, info.si_status()) };
        let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
        return Ok(ended.then_some(exit));
    }
}

#[cfg(test)]
mod tests;
