//! What `ps` shows for this process.

use std::{fs, io};

use crate::clone::SingleThread;

/// Where this process's arguments lie. A copy of the process has them in the same place.
#[derive(Debug, Clone, Copy)]
pub struct Title {
    start: usize,
    end: usize,
}

impl Title {
    /// Asks the kernel.
    pub fn find() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let bad = || io::Error::other("the kernel's stat line has an unknown form");
        let fields = stat.rsplit_once(')').ok_or_else(bad)?.1;
        // The fields after the name start with number 3; the arguments lie from number 48 to 49.
        let mut fields = fields.split_ascii_whitespace().skip(45);
        let mut address = || fields.next().and_then(|f| f.parse::<usize>().ok()).ok_or_else(bad);
        let (start, end) = (address()?, address()?);
        if start == 0 || end <= start {
            return Err(bad());
        }
        Ok(Self { start, end })
    }

    /// Replaces the command line of this process, cut to the room that its arguments took, and its
    /// short name, cut to 15 bytes.
    ///
    /// For processes that never look at their arguments again: the text that `std::env::args`
    /// would give is overwritten.
    pub fn set(self, _proof: &SingleThread, title: &str, name: &std::ffi::CStr) -> io::Result<()> {
        rustix::thread::set_name(name)?;
        let room = self.end - self.start;
        let length = title.len().min(room - 1);
        let area = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the kernel said that these bytes hold the arguments of this process, or of the
        // one that it is a copy of: writable stack memory that lives as long as the process. There
        // is one thread, and it does not read them.
        unsafe {
            area.write_bytes(0, room);
            area.copy_from_nonoverlapping(title.as_ptr(), length);
        }
        Ok(())
    }
}
