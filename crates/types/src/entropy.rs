//! Where chance comes from: ids that nobody guesses or draws twice, and delays that spread load.
//!
//! Secrets are not made of it: they are drawn from the operating system where they are made, so that
//! no source that is swapped for another one can weaken them.

use std::time::Duration;

/// A source of random bits. Production asks the system; a simulation draws from its seed, so that a
/// run can be had again.
pub trait Entropy: Send + Sync + 'static {
    /// 64 random bits.
    fn bits(&self) -> u64;
}

impl dyn Entropy {
    /// What an id is made of.
    pub fn id(&self) -> [u8; 10] {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&self.bits().to_le_bytes());
        id[8..].copy_from_slice(&self.bits().to_le_bytes()[..2]);
        id
    }

    /// A duration up to a fifth longer or shorter than this one.
    pub fn jittered(&self, period: Duration) -> Duration {
        // 53 bits are a fraction without a loss.
        let share = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        period.mul_f64(0.8 + 0.4 * share)
    }
}

/// The system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> u64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u64);

    impl Entropy for Always {
        fn bits(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn jitter_adds_or_takes_a_fifth_at_most() {
        let second = Duration::from_secs(1);
        let shortest: &dyn Entropy = &Always(0);
        let longest: &dyn Entropy = &Always(u64::MAX);
        assert_eq!(shortest.jittered(second), Duration::from_millis(800));
        assert!(longest.jittered(second) <= Duration::from_millis(1200));
        assert!(Duration::from_millis(1199) < longest.jittered(second));
    }

    #[test]
    fn all_bits_of_an_id_are_drawn() {
        let all: &dyn Entropy = &Always(u64::MAX);
        assert_eq!(all.id(), [255; 10]);
        let system: &dyn Entropy = &SystemEntropy;
        assert_ne!(system.id(), system.id());
    }
}
