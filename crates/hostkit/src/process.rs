//! Starting a command: everything is prepared before the clone, and between clone and exec the child
//! makes system calls only.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, c_char, c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions},
};

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// A command, ready to be started.
pub struct Command<'a> {
    /// The paths to try, in order; the first that exists is run.
    pub candidates: Vec<CString>,
    /// Its arguments, its own name first.
    pub argv: Vec<CString>,
    /// Its environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Where it starts; each is tried in turn.
    pub workdirs: Vec<CString>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input is a terminal that becomes the controlling one.
    pub terminal: bool,
    /// Who it runs as; `None` keeps the caller's ids.
    pub ids: Option<Ids>,
}

/// Which step a command failed at before it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Its session, terminal or standard streams.
    Session = 1,
    /// Changing user or groups.
    Ids,
    /// Entering the directory.
    Workdir,
    /// Running the program.
    Exec,
}

/// Why a command did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartFailure {
    /// Where.
    pub step: Step,
    /// The error number.
    pub errno: i32,
}

/// The prepared pointers of a command; they point into it.
struct Prepared<'a> {
    command: &'a Command<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// Bytes of the child's stack, with what it leaves for us at the top and a page that nobody may
/// touch at the bottom.
const STACK: usize = 64 * 1024;

/// What a child leaves when it could not become its command: the step and the error number. Zero
/// means that nothing went wrong.
#[repr(C, align(64))]
struct Outcome {
    step: AtomicI32,
    errno: AtomicI32,
}

/// What a child needs to know; it lives on the starter's stack while that waits.
struct Order<'a> {
    prepared: &'a Prepared<'a>,
    outcome: &'a Outcome,
}

/// Where commands are started from: a stack for the child between clone and exec, and a word that
/// it leaves there. The memory stays shared with a child that has a copy of all other memory.
#[derive(Debug)]
pub struct Starter {
    memory: NonNull<c_void>,
    length: usize,
}

impl Starter {
    /// Reserves the memory.
    pub fn new() -> io::Result<Self> {
        let guard = usize::try_from(page_size()).unwrap_or(STACK);
        let length = guard + STACK;
        // SAFETY: a fresh anonymous mapping, at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let memory = match NonNull::new(memory) {
            Some(memory) if memory.as_ptr() != libc::MAP_FAILED => Self { memory, length },
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the lowest page of our own mapping, which nothing uses yet.
        match unsafe { libc::mprotect(memory.memory.as_ptr(), guard, libc::PROT_NONE) } {
            0 => Ok(memory),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Starts a command in a session of its own, and waits until its program runs or cannot. Must
    /// be called from a single-threaded process.
    ///
    /// The child is a subreaper, so that what it leaves behind stays below it for as long as it
    /// lives; it has default signal dispositions, an empty mask, and no descriptors beyond its
    /// three.
    pub fn start(&mut self, command: &Command<'_>) -> io::Result<Result<Pid, StartFailure>> {
        let prepared =
            Prepared { command, argv: pointers(&command.argv), env: pointers(&command.env) };
        // SAFETY: the top of the mapping, aligned and large enough; only this call and its child
        // use it, both through atomics.
        let outcome = unsafe {
            &*self.memory.byte_add(self.length - size_of::<Outcome>()).cast::<Outcome>().as_ptr()
        };
        outcome.step.store(0, Ordering::Relaxed);
        outcome.errno.store(0, Ordering::Relaxed);
        let order = Order { prepared: &prepared, outcome };
        // A child that becomes another user while it has our memory would make that memory
        // readable for this user on hosts where `fs.suid_dumpable` is 1: it gets a copy.
        let memory = if command.ids.is_none() { libc::CLONE_VM } else { 0 };
        // SAFETY: the child runs `run` on the mapping below `outcome`, which it has for itself:
        // this thread sleeps (CLONE_VFORK) until the child has another program's memory or none.
        // The caller is single-threaded, so no lock is held by anyone else. `order` outlives the
        // sleep. Descriptors, dispositions and directories are the child's own copies.
        let pid = unsafe {
            libc::clone(
                run,
                ptr::from_ref(outcome).cast_mut().cast(),
                libc::CLONE_VFORK | memory | libc::SIGCHLD,
                ptr::from_ref(&order).cast_mut().cast(),
            )
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
        let step = match outcome.step.load(Ordering::Relaxed) {
            0 => return Ok(Ok(pid)),
            1 => Step::Session,
            2 => Step::Ids,
            3 => Step::Workdir,
            _ => Step::Exec,
        };
        // It is on its way out. Whoever reaps all children then finds one less.
        while matches!(rustix::process::waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR))
        {
        }
        Ok(Err(StartFailure { step, errno: outcome.errno.load(Ordering::Relaxed) }))
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // SAFETY: our own mapping; a child that uses it keeps `start` from returning.
        unsafe {
            libc::munmap(self.memory.as_ptr(), self.length);
        }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

extern "C" fn run(order: *mut c_void) -> c_int {
    // SAFETY: `start` passes its `Order`, which outlives this process's use of it.
    let order = unsafe { &*order.cast::<Order<'_>>().cast_const() };
    let Err(failure) = prepare_and_exec(order.prepared);
    order.outcome.errno.store(failure.errno, Ordering::Relaxed);
    order.outcome.step.store(failure.step as i32, Ordering::Relaxed);
    // SAFETY: `_exit` runs no handlers, which would be the parent's.
    unsafe { libc::_exit(127) }
}

fn check(step: Step, result: i32) -> Result<i32, StartFailure> {
    if result < 0 { Err(StartFailure { step, errno: errno() }) } else { Ok(result) }
}

fn prepare_and_exec(prepared: &Prepared<'_>) -> Result<Infallible, StartFailure> {
    let command = prepared.command;
    // SAFETY: integers only; descriptors are the child's own copies and stay open meanwhile.
    unsafe {
        check(Step::Session, libc::setsid())?;
        check(Step::Session, libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
        // A source that is itself one of 0 to 2 is moved out of the way first.
        let mut sources = command.stdio.map(|fd| fd.as_raw_fd());
        for source in sources.iter_mut().filter(|source| **source < 3) {
            *source = check(Step::Session, libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, 3))?;
        }
        for (to, from) in (0..).zip(sources) {
            check(Step::Session, libc::dup2(from, to))?;
        }
        check(Step::Session, close_from(3))?;
        if command.terminal {
            check(Step::Session, libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
    }
    if let Some(ids) = &command.ids {
        become_user(ids)?;
    }
    enter(&command.workdirs)?;
    crate::signals::restore();
    Err(exec_first(prepared))
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// The caller owns all of them and uses none afterwards.
unsafe fn close_from(first: u32) -> i32 {
    // SAFETY: integers only; ownership is the caller's promise. The syscall's result fits an i32.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) as i32 }
}

fn become_user(ids: &Ids) -> Result<(), StartFailure> {
    // SAFETY: the group list is valid for reads of its length; the raw calls change the only
    // thread of this process.
    unsafe {
        let set = libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr());
        // A namespace with one mapped id forbids setgroups; there the groups cannot differ anyway.
        if set != 0 && errno() != libc::EPERM {
            return Err(StartFailure { step: Step::Ids, errno: errno() });
        }
        let gid = ids.gid;
        check(Step::Ids, libc::syscall(libc::SYS_setresgid, gid, gid, gid) as i32)?;
        let uid = ids.uid;
        check(Step::Ids, libc::syscall(libc::SYS_setresuid, uid, uid, uid) as i32)?;
    }
    Ok(())
}

fn enter(workdirs: &[CString]) -> Result<(), StartFailure> {
    let mut last = libc::ENOENT;
    for dir in workdirs {
        // SAFETY: a valid C string.
        if unsafe { libc::chdir(dir.as_ptr()) } == 0 {
            return Ok(());
        }
        last = errno();
    }
    Err(StartFailure { step: Step::Workdir, errno: last })
}

/// Tries each candidate. As in a shell, one that may not be executed is remembered and told only if
/// no later one runs.
fn exec_first(prepared: &Prepared<'_>) -> StartFailure {
    let mut told = libc::ENOENT;
    for path in &prepared.command.candidates {
        let path: &CStr = path;
        // SAFETY: the path is a C string; both arrays end with a null pointer and point to C
        // strings that live as long as `prepared`.
        unsafe {
            libc::execve(path.as_ptr(), prepared.argv.as_ptr(), prepared.env.as_ptr());
        }
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => told = libc::EACCES,
            other => return StartFailure { step: Step::Exec, errno: other },
        }
    }
    StartFailure { step: Step::Exec, errno: told }
}

/// Gives freed heap memory back to the kernel, where the allocator can.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and only returns unused pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The size of a page of memory in bytes.
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Changes the permission bits of what an `O_PATH` descriptor refers to. Kernels before 6.6 lack
/// the call and say `ENOSYS`.
pub fn chmod_descriptor(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    const FCHMODAT2: libc::c_long = 452;
    // SAFETY: an open descriptor, an empty C string and integers.
    let done = unsafe {
        libc::syscall(FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a descriptor that this process inherited under a number that its command line names.
///
/// Only standard input (0) is served so: nothing else of the program may use it.
pub fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number; it fails when nothing is open there, and otherwise returns a new
    // descriptor that nobody else owns.
    unsafe {
        let fd = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn outcome(
        candidates: &[&str],
        argv: &[&str],
        workdir: &str,
        ids: Option<Ids>,
    ) -> (String, Option<StartFailure>) {
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let command = Command {
            candidates: candidates.iter().map(|p| c(p)).collect(),
            argv: argv.iter().map(|a| c(a)).collect(),
            env: vec![c("GREETING=hello")],
            workdirs: vec![c(workdir)],
            stdio: [null.as_fd(), write.as_fd(), null.as_fd()],
            terminal: false,
            ids,
        };
        let started = Starter::new().unwrap().start(&command).unwrap();
        drop(write);
        let mut text = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(read), &mut text).unwrap();
        if let Ok(pid) = started {
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).unwrap();
        }
        (String::from_utf8(text).unwrap(), started.err())
    }

    #[test]
    fn a_command_gets_its_environment_directory_and_only_three_descriptors() {
        let script = "echo $GREETING; pwd; ls /proc/$$/fd | tr '\\n' ' '";
        let (text, failure) =
            outcome(&["/nonexistent/sh", "/bin/sh"], &["sh", "-c", script], "/usr", None);
        assert_eq!(failure, None);
        assert!(text.starts_with("hello\n/usr\n0 1 2"), "{text}");
    }

    #[test]
    fn a_command_leads_its_own_session() {
        let script = "read -r pid name state ppid group session rest < /proc/$$/stat; \
                      test $pid = $group && test $pid = $session && echo yes";
        assert_eq!(outcome(&["/bin/sh"], &["sh", "-c", script], "/", None).0, "yes\n");
    }

    #[test]
    fn each_failure_names_its_step() {
        let failed = |step, errno| Some(StartFailure { step, errno });
        let me = Ids {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: vec![],
        };
        // Without a change of user the child has our memory, with one it has a copy.
        for ids in [None, Some(me)] {
            let run = |program, workdir| outcome(&[program], &["x"], workdir, ids.clone()).1;
            assert_eq!(run("/nonexistent", "/"), failed(Step::Exec, libc::ENOENT));
            assert_eq!(run("/etc/passwd", "/"), failed(Step::Exec, libc::EACCES));
            assert_eq!(run("/bin/sh", "/absent"), failed(Step::Workdir, libc::ENOENT));
            assert_eq!(run("/bin/true", "/"), None);
        }
    }

    #[test]
    fn a_stream_that_is_our_own_standard_stream_is_not_lost_to_another() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let command = Command {
            candidates: vec![c("/bin/readlink")],
            argv: ["readlink", "/proc/self/fd/2"].map(c).to_vec(),
            env: vec![],
            workdirs: vec![c("/")],
            stdio: [rustix::stdio::stdin(), write.as_fd(), rustix::stdio::stdout()],
            terminal: false,
            ids: None,
        };
        let pid = Starter::new().unwrap().start(&command).unwrap().unwrap();
        drop(write);
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        rustix::process::waitpid(Some(pid), WaitOptions::empty()).unwrap();
        let ours = std::fs::read_link("/proc/self/fd/1").unwrap();
        assert_eq!(text.trim_end(), ours.to_str().unwrap());
    }
}
