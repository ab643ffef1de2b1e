//! Samples and what is said about them.

use std::time::{Duration, Instant};

/// Times of one operation, in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Times `act` `count` times, after `warm` rounds that do not count.
    pub fn take(
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
    pub fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    /// Adds all of another's times.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The value below which `share` of the samples lie.
    pub fn percentile(&self, share: f64) -> f64 {
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

    /// The median.
    pub fn p50(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The 99th percentile.
    pub fn p99(&self) -> f64 {
        self.percentile(0.99)
    }
}

/// How long `act` took.
pub fn time(act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed())
}

/// Microseconds as people read them.
pub fn show(micros: f64) -> String {
    if micros.is_nan() {
        "–".to_owned()
    } else if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else {
        format!("{:.2} ms", micros / 1000.0)
    }
}
