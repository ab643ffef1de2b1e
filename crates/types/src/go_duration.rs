//! Durations as Go's `time.ParseDuration` and `Duration.String` write them, because that is what
//! published clients send and read. Grammar: <https://pkg.go.dev/time#ParseDuration>.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It does not follow the grammar.
    #[error("a duration is numbers with units ns, us, ms, s, m or h, such as 90s or 1h30m")]
    Syntax,
    /// It follows the grammar with a minus sign.
    #[error("a duration cannot be negative")]
    Negative,
    /// It is longer than 292 years, the most that Go can hold.
    #[error("the duration is too long")]
    TooLong,
}

/// Parses a non-negative Go duration such as `1h30m`, `1.5s`, `250ms` or `0`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    use InvalidDuration::{Negative, Syntax, TooLong};
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(Syntax);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let whole_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(whole_len);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(Syntax);
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(Syntax),
        };
        if whole.len() > 19 {
            return Err(TooLong);
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Syntax)? };
        nanos += whole * scale;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            nanos += u128::from(digit - b'0') * place;
        }
        if nanos > i64::MAX.unsigned_abs().into() {
            return Err(TooLong);
        }
        rest = after;
    }
    if negative && nanos > 0 {
        return Err(Negative);
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| TooLong)
}

/// Writes a duration as Go would: `0s`, `1.5s`, `105.634ms`, `516.2µs`, `1h0m0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn decimal(nanos: u128, unit: u128) -> String {
    let fraction = nanos % unit;
    if fraction == 0 {
        return (nanos / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let text = format!("{}.{fraction:0width$}", nanos / unit);
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_go_parses_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("30m", 1_800_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("3µs", 3_000),
            ("+7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "-", "5", "1d", "s", ".s", "1h-5m", "1 h", "x", "1..5s", "١s"] {
            assert_eq!(parse_duration(bad), Err(InvalidDuration::Syntax), "{bad:?}");
        }
        assert_eq!(parse_duration("-5s"), Err(InvalidDuration::Negative));
        assert_eq!(parse_duration("9999999999h"), Err(InvalidDuration::TooLong));
        assert_eq!(parse_duration(&format!("{}h", "9".repeat(400))), Err(InvalidDuration::TooLong));
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (516_200, "516.2µs"),
            (105_634_355, "105.634355ms"),
            (1_500_000_000, "1.5s"),
            (61_000_000_000, "1m1s"),
            (3_600_000_000_000, "1h0m0s"),
            (86_400_000_000_000, "24h0m0s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
        }
    }
}
