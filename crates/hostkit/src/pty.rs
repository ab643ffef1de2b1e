//! Terminals for commands.
//!
//! The other end is opened by ioctl and never by path, so it belongs to the devpts instance of the
//! master whatever is mounted at `/dev/pts`, and `grantpt` is not needed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    pty::OpenptFlags,
    termios::Winsize,
};

/// A terminal: the master is non-blocking, the other end is for the command.
pub struct Pty {
    /// Our end.
    pub master: OwnedFd,
    /// The command's end.
    pub terminal: OwnedFd,
}

/// Opens a terminal of the given size from `/dev/ptmx`. Whatever a hostile guest put there is only
/// opened without blocking, and used only if it is a terminal multiplexer.
pub fn open(rows: u16, cols: u16) -> io::Result<Pty> {
    let master = rustix::fs::open(
        "/dev/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&master)?.st_mode) != FileType::CharacterDevice {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    resize(&terminal, rows, cols)?;
    Ok(Pty { master, terminal })
}

/// Sets the size and lets the foreground process group know.
pub fn resize(fd: impl AsFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_at_one_end_is_read_at_the_other() {
        let pty = open(24, 80).unwrap();
        rustix::io::write(&pty.master, b"hi\n").unwrap();
        let mut line = [0; 16];
        assert_eq!(rustix::io::read(&pty.terminal, &mut line).unwrap(), 3);
        resize(&pty.master, 50, 132).unwrap();
        assert_eq!(rustix::termios::tcgetwinsize(&pty.terminal).unwrap().ws_col, 132);
    }
}
