//! Samples and what is said about them.

use std::time::{Duration, Instant};

/// Before each one-shot, ours and theirs alike: neither the filling of a pool nor the kernel's
/// cleaning up of the last one is measured with the next, and nobody profits from a warm processor.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Times of one operation, in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Times `act` `count` times, after `warm` rounds that do not count.
    pub(crate) fn take(
        warm: usize,
        count: usize,
        mut act: impl FnMut() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Self> {
        let mut samples = Self::default();
        for round in 0..warm + count {
            let took = act()?;
            if round >= warm {
                samples.push(took);
            }
        }
        Ok(samples)
    }

    /// Adds one time.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    /// Adds all of another's times.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Prints each time in microseconds on a line of its own.
    #[expect(clippy::print_stdout, reason = "another process reads it")]
    pub(crate) fn print(&self) {
        for micros in &self.0 {
            println!("{micros:.1}");
        }
    }

    /// The value below which `share` of the samples lie.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into the samples"
        )]
        let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// The median.
    pub(crate) fn p50(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The 99th percentile.
    pub(crate) fn p99(&self) -> f64 {
        self.percentile(0.99)
    }
}

/// How long `act` took.
pub(crate) fn time(act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed())
}

/// Microseconds as people read them.
pub(crate) fn show(micros: f64) -> String {
    if micros.is_nan() {
        "–".to_owned()
    } else if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else {
        format!("{:.2} ms", micros / 1000.0)
    }
}
