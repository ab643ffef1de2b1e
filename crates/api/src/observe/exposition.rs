//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use stacyvm_types::Tally;

/// What a reply in this format is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rises, and starts over with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
    /// A sum and a count.
    Summary,
}

/// A scrape that is being written.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// One family of it. All samples of a family are written together, as readers demand.
#[derive(Debug)]
pub(crate) struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
}

/// Names and values of labels.
pub(crate) type Labels<'l> = &'l [(&'static str, &'l str)];

impl Exposition {
    /// Begins a family. `help` is one line.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {word}");
        Family { text: &mut self.0, name }
    }

    /// A family of one gauge.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// A family of one counter.
    pub(crate) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// The whole scrape.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Writes one sample. `value` must be a finite number.
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes all samples of a histogram of durations, in seconds.
    pub(crate) fn histogram(&mut self, labels: Labels<'_>, tally: &Tally) {
        for (end, count) in tally.cumulative() {
            match end {
                Some(end) => self.line("_bucket", labels, Some(&end.as_secs_f64()), count),
                None => self.line("_bucket", labels, Some(&"+Inf"), count),
            }
        }
        self.line("_sum", labels, None, tally.total().as_secs_f64());
        self.line("_count", labels, None, tally.count());
    }

    /// Writes both samples of a summary of durations, in milliseconds.
    pub(crate) fn summary_ms(&mut self, labels: Labels<'_>, tally: &Tally) {
        self.line("_sum", labels, None, tally.total().as_secs_f64() * 1_000.0);
        self.line("_count", labels, None, tally.count());
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        end: Option<&dyn Display>,
        value: impl Display,
    ) {
        let text = &mut *self.text;
        let _ = write!(text, "{}{suffix}", self.name);
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(text, "{before}{name}=\"");
            escape(text, value);
            text.push('"');
            before = ',';
        }
        if let Some(end) = end {
            let _ = write!(text, "{before}le=\"{end}\"");
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Labels may hold anything: nothing of it ends the text or the line.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            // Some readers take it for the end of a line.
            '\r' => text.push('\u{fffd}'),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stacyvm_types::Histogram;

    use super::*;

    /// R2.4: the text format, and labels that try to break out of it.
    #[test]
    fn labels_are_escaped_and_samples_stand_one_a_line() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("a_bytes", Kind::Gauge, "Some bytes.");
        family.sample(&[], 1);
        family.sample(&[("x", "a\\b\"c\nd\re} 9\u{0}é"), ("y", "")], 0.5);
        assert_eq!(
            exposition.into_text(),
            "# HELP a_bytes Some bytes.\n# TYPE a_bytes gauge\na_bytes 1\n\
             a_bytes{x=\"a\\\\b\\\"c\\nd\u{fffd}e} 9\u{0}é\",y=\"\"} 0.5\n"
        );
    }

    /// R2.4: latencies are histograms in seconds.
    #[test]
    fn a_histogram_ends_with_everything_its_sum_and_its_count() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(100));
        histogram.record(Duration::from_secs(90));
        let mut exposition = Exposition::default();
        let mut family = exposition.family("a_seconds", Kind::Histogram, "Some time.");
        family.histogram(&[("x", "y")], &histogram.tally());
        let text = exposition.into_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "a_seconds_bucket{x=\"y\",le=\"0.0001\"} 1");
        assert_eq!(
            lines[lines.len() - 3..],
            [
                "a_seconds_bucket{x=\"y\",le=\"+Inf\"} 2",
                "a_seconds_sum{x=\"y\"} 90.0001",
                "a_seconds_count{x=\"y\"} 2"
            ]
        );
    }
}
