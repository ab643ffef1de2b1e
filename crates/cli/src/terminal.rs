//! The user's terminal: its size, and raw mode that is undone on every way out.

use std::{
    io::{IsTerminal, stdin, stdout},
    sync::{Mutex, Once, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::exit::{ExitStatus, Failure};

/// What raw mode replaced, for the panic hook; `None` while the terminal is as the user has it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal on standard input. Dropping it gives the terminal back; so does a
/// panic anywhere, before its message is written. Signals that would end the program are taken by
/// [`crate::session::drive`], which returns and thereby drops this.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Enters raw mode.
    pub fn enter() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| {
            Failure::new(
                ExitStatus::FAILED,
                format!("the terminal cannot be put into raw mode: {error}"),
            )
        };
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        restore_on_panic();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = saved {
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &before);
    }
}

fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
    });
}

/// The size of the terminal in (rows, columns), or 24 by 80 where there is none.
pub fn size() -> (u16, u16) {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    match size {
        Ok(size) if 0 < size.ws_row && 0 < size.ws_col => (size.ws_row, size.ws_col),
        Ok(_) | Err(_) => (24, 80),
    }
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    stdin().is_terminal()
}
