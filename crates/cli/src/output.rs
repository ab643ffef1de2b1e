//! Where words, tables and JSON go.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Table, presets};

use crate::{
    args::Format,
    escape::escape,
    exit::{ExitStatus, Failure},
};

/// Rows under their headings. Cells are escaped here, so that callers cannot forget it.
#[derive(Debug)]
pub struct Rows {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// No rows yet.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.iter().map(|cell| escape(cell)).collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn render(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if !self.headings.is_empty() {
            table.set_header(self.headings.clone());
        }
        table.add_rows(self.rows.clone());
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes words to standard error. When that is gone too, nobody is left to tell.
pub fn say(words: &str) {
    let _ = writeln!(io::stderr().lock(), "{words}");
}

/// Writes rows to standard output.
pub fn print_rows(rows: &Rows) -> Result<(), Failure> {
    write(rows.render().as_bytes())
}

/// Writes JSON to standard output, with one final newline.
pub fn print_json(json: &[u8]) -> Result<(), Failure> {
    let mut text = json.trim_ascii_end().to_vec();
    text.push(b'\n');
    write(&text)
}

/// Writes text to standard output as it is; what others chose in it is escaped already.
pub fn print_text(text: &str) -> Result<(), Failure> {
    write(text.as_bytes())
}

fn write(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(failed)
}

/// What a failed write to standard output means.
pub(crate) fn failed(error: io::Error) -> Failure {
    match error.kind() {
        // Whoever read our output has gone; what a program killed by SIGPIPE exits with.
        io::ErrorKind::BrokenPipe => Failure::new(ExitStatus(141), ""),
        _ => Failure::new(ExitStatus::FAILED, format!("the output cannot be written: {error}")),
    }
}

/// How answers are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Shows rows, or the JSON they were made from; `none` is said when there are no rows.
    pub(crate) fn rows(self, json: &[u8], rows: &Rows, none: &str) -> Result<(), Failure> {
        if self.is_json() {
            return print_json(json);
        }
        if rows.is_empty() {
            say(none);
            return Ok(());
        }
        print_rows(rows)
    }

    /// Shows one line of data, such as an id, or the JSON it is from.
    pub(crate) fn line(self, json: &[u8], line: &str) -> Result<(), Failure> {
        if self.is_json() {
            return print_json(json);
        }
        write(format!("{}\n", escape(line)).as_bytes())
    }

    /// Says what was done, or shows the JSON that says it.
    pub(crate) fn done(self, json: &[u8], words: &str) -> Result<(), Failure> {
        if self.is_json() {
            return print_json(json);
        }
        say(&escape(words));
        Ok(())
    }

    /// Writes bytes of a sandbox as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        write(bytes)
    }
}

/// Whether a person watches standard error.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// A time of the API, to the second.
pub(crate) fn short_time(rfc3339: &str) -> String {
    match rfc3339.split_once('T') {
        Some((date, time)) => {
            let time: String = time.chars().take(8).collect();
            format!("{date} {time}")
        }
        None => rfc3339.to_owned(),
    }
}

/// A count of bytes for people.
pub(crate) fn short_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while 10_240 <= tenths && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_cannot_be_broken_by_what_is_in_it() {
        let mut rows = Rows::new(&["ID", "NAME"]);
        rows.push(["a", "x\x1b[2J\ny"]);
        rows.push(["bbbb", ""]);
        assert_eq!(rows.render(), "ID    NAME\na     x\\u{1b}[2J\\ny\nbbbb\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (1536, "1.5 KiB"),
        ] {
            assert_eq!(short_size(bytes), text);
        }
        assert_eq!(short_size(u64::MAX), "16383.9 PiB");
        assert_eq!(short_time("2026-11-21T06:36:48.123Z"), "2026-11-21 06:36:48");
        assert_eq!(short_time("x"), "x");
    }
}
