//! Bugs that are planted to see that they are caught.
//!
//! Each is made where the simulation stands between two parts, so that what runs is the code that
//! ships, in a world that breaks one promise that it relies on.

use std::fmt;

use clap::ValueEnum;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plant {
    /// The end of a sandbox never gives its place back.
    ReservationLeaked,
    /// Nobody is told that a place became free.
    NotificationLost,
    /// Deadlines are judged by the clock of a server that runs ahead.
    ExpiryByLocalClock,
    /// An admission that is full is admitted all the same.
    LimitIgnored,
    /// A destruction answers before anything is gone.
    DestroyAnsweredEarly,
    /// A worker that starts again has forgotten the generations that it had seen.
    FencingForgotten,
    /// Every call looks like that of a newer owner.
    FencingRemoved,
    /// Heartbeats are answered and renew nothing.
    RenewalSkipped,
}

impl Plant {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::ReservationLeaked,
        Self::NotificationLost,
        Self::ExpiryByLocalClock,
        Self::LimitIgnored,
        Self::DestroyAnsweredEarly,
        Self::FencingForgotten,
        Self::FencingRemoved,
        Self::RenewalSkipped,
    ];

    /// Whether it only shows where there are several nodes.
    pub(crate) const fn needs_others(self) -> bool {
        matches!(self, Self::FencingForgotten | Self::FencingRemoved | Self::RenewalSkipped)
    }

    /// Whether it only shows where nothing else goes wrong.
    pub(crate) const fn needs_calm(self) -> bool {
        matches!(self, Self::NotificationLost)
    }

    /// Whether it only shows when calls come twice and nodes crash.
    pub(crate) const fn needs_trouble(self) -> bool {
        matches!(self, Self::FencingForgotten | Self::FencingRemoved)
    }
}

/// Its name on the command line.
impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => Ok(()),
        }
    }
}
