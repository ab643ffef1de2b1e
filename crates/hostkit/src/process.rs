//! Starting a command: everything is prepared before the fork, and between fork and exec the child
//! makes system calls only.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, c_char},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::process::Pid;

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
pub enum Step {
    /// Its session, terminal or standard streams.
    Session,
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

/// A forked command: it runs once `report` closed without a word.
pub struct Child {
    /// Its process id, which is also its process group and session.
    pub pid: Pid,
    /// Closed by a successful exec; before that it carries one [`StartFailure`]. Non-blocking.
    pub report: OwnedFd,
}

const REPORT: usize = 5;

/// Reads what [`Child::report`] says: `None` when it is not known yet, `Some(Ok)` when the program
/// runs.
pub fn read_report(report: impl AsFd) -> Option<Result<(), StartFailure>> {
    let mut buffer = [0_u8; REPORT];
    match rustix::io::read(report, &mut buffer) {
        Ok(0) => Some(Ok(())),
        Ok(REPORT) => {
            let step = match buffer[0] {
                0 => Step::Session,
                1 => Step::Ids,
                2 => Step::Workdir,
                _ => Step::Exec,
            };
            let errno = i32::from_le_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
            Some(Err(StartFailure { step, errno }))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
        Ok(_) | Err(_) => Some(Err(StartFailure { step: Step::Session, errno: libc::EIO })),
    }
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

/// Forks a command into a session of its own. Must be called from a single-threaded process.
///
/// The child is a subreaper, so that what it leaves behind stays below it for as long as it lives;
/// it has default signal dispositions, an empty mask, and no descriptors beyond its three.
pub fn spawn(command: &Command<'_>) -> io::Result<Child> {
    let prepared = Prepared { command, argv: pointers(&command.argv), env: pointers(&command.env) };
    let (report, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&report, true)?;
    // SAFETY: the caller is single-threaded, so no lock can be held by a thread that the child
    // lacks; the child calls `run`, which makes system calls on memory prepared above and never
    // returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        run(&prepared, &write);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    Ok(Child { pid, report })
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn run(prepared: &Prepared<'_>, report: &OwnedFd) -> ! {
    let mut report = report.as_raw_fd();
    let Err(failure) = prepare_and_exec(prepared, &mut report);
    let mut message = [failure.step as u8, 0, 0, 0, 0];
    message[1..].copy_from_slice(&failure.errno.to_le_bytes());
    // SAFETY: the message is valid for reads of its length; the report descriptor is open until
    // here. `_exit` runs no handlers of the parent's copy.
    unsafe {
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

fn check(step: Step, result: i32) -> Result<i32, StartFailure> {
    if result < 0 { Err(StartFailure { step, errno: errno() }) } else { Ok(result) }
}

fn prepare_and_exec(
    prepared: &Prepared<'_>,
    report: &mut RawFd,
) -> Result<Infallible, StartFailure> {
    let command = prepared.command;
    // SAFETY: integers only; descriptors are the child's own copies and stay open meanwhile.
    unsafe {
        check(Step::Session, libc::setsid())?;
        check(Step::Session, libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
        // The sources are moved out of the way first: any of them may itself be 0 to 3.
        *report = check(Step::Session, libc::fcntl(*report, libc::F_DUPFD_CLOEXEC, 10))?;
        let mut moved = [0; 3];
        for (to, from) in moved.iter_mut().zip(&command.stdio) {
            let from = from.as_raw_fd();
            *to = check(Step::Session, libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 10))?;
        }
        for (to, from) in (0..).zip(moved) {
            check(Step::Session, libc::dup2(from, to))?;
        }
        *report = check(Step::Session, libc::dup3(*report, 3, libc::O_CLOEXEC))?;
        check(Step::Session, close_from(4))?;
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
    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn outcome(
        candidates: &[&str],
        argv: &[&str],
        workdir: &str,
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
            ids: None,
        };
        let child = spawn(&command).unwrap();
        drop(write);
        let mut text = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(read), &mut text).unwrap();
        rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty()).unwrap();
        let report = read_report(&child.report).unwrap();
        (String::from_utf8(text).unwrap(), report.err())
    }

    #[test]
    fn a_command_gets_its_environment_directory_and_only_three_descriptors() {
        let script = "echo $GREETING; pwd; ls /proc/$$/fd | tr '\\n' ' '";
        let (text, failure) =
            outcome(&["/nonexistent/sh", "/bin/sh"], &["sh", "-c", script], "/usr");
        assert_eq!(failure, None);
        assert!(text.starts_with("hello\n/usr\n0 1 2"), "{text}");
    }

    #[test]
    fn a_command_leads_its_own_session() {
        let script = "read -r pid name state ppid group session rest < /proc/$$/stat; \
                      test $pid = $group && test $pid = $session && echo yes";
        assert_eq!(outcome(&["/bin/sh"], &["sh", "-c", script], "/").0, "yes\n");
    }

    #[test]
    fn each_failure_names_its_step() {
        let failed = |step, errno| Some(StartFailure { step, errno });
        assert_eq!(outcome(&["/nonexistent"], &["x"], "/").1, failed(Step::Exec, libc::ENOENT));
        assert_eq!(outcome(&["/etc/passwd"], &["x"], "/").1, failed(Step::Exec, libc::EACCES));
        assert_eq!(outcome(&["/bin/sh"], &["x"], "/absent").1, failed(Step::Workdir, libc::ENOENT));
    }
}
