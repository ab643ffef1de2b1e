//! Rows as comma-separated values that are safe to open in a spreadsheet.

/// Characters at the start of a cell that make spreadsheets run what follows.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A header and rows, one a line.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut text = String::new();
    line(&mut text, header.iter().copied());
    for row in rows {
        line(&mut text, row.iter().map(String::as_str));
    }
    text
}

fn line<'c>(text: &mut String, cells: impl Iterator<Item = &'c str>) {
    for (at, cell) in cells.enumerate() {
        if 0 < at {
            text.push(',');
        }
        push(text, cell);
    }
    text.push('\n');
}

/// Quotes a cell where its content would end it, and keeps it from being a formula.
fn push(text: &mut String, cell: &str) {
    let guard = if cell.starts_with(FORMULA) { "'" } else { "" };
    if !cell.contains([',', '"', '\n', '\r']) {
        text.push_str(guard);
        text.push_str(cell);
        return;
    }
    text.push('"');
    text.push_str(guard);
    text.push_str(&cell.replace('"', "\"\""));
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2.6: what a caller wrote is data in every program that opens the file.
    #[test]
    fn a_cell_is_quoted_and_never_a_formula() {
        for (cell, shown) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "\"'\r=1\""),
            ("=cmd|' /C calc'!A0,x", "\"'=cmd|' /C calc'!A0,x\""),
            ("a=1", "a=1"),
            ("", ""),
        ] {
            let table = table(["h"], [[cell.to_owned()]]);
            assert_eq!(table, format!("h\n{shown}\n"), "{cell:?}");
        }
    }
}
