//! What tests can make go wrong.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{Error, ErrorKind, Result};

/// The mock's fault knobs. All off at first.
pub struct Faults {
    launch_delay: Mutex<Duration>,
    failing_launches: AtomicU32,
    failing_destroys: AtomicU32,
    hanging: watch::Sender<bool>,
    unusable: Mutex<Option<String>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            launch_delay: Mutex::default(),
            failing_launches: AtomicU32::new(0),
            failing_destroys: AtomicU32::new(0),
            hanging: watch::Sender::new(false),
            unusable: Mutex::default(),
        }
    }
}

impl Faults {
    /// Makes every launch take this much longer.
    pub fn delay_launches(&self, by: Duration) {
        *self.launch_delay.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    /// Makes the next `count` launches fail with [`ErrorKind::Unavailable`].
    pub fn fail_launches(&self, count: u32) {
        self.failing_launches.store(count, Ordering::SeqCst);
    }

    /// Makes the next `count` destroys fail with [`ErrorKind::Unavailable`].
    pub fn fail_destroys(&self, count: u32) {
        self.failing_destroys.store(count, Ordering::SeqCst);
    }

    /// Makes every call hang, or lets the hanging ones go on.
    pub fn hang(&self, on: bool) {
        self.hanging.send_replace(on);
    }

    /// Makes the probe answer that the provider cannot run, or usable again.
    pub fn unusable(&self, reason: Option<&str>) {
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = reason.map(str::to_owned);
    }

    pub(super) fn unusable_reason(&self) -> Option<String> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn before_call(&self) {
        // The sender lives in `self`, so waiting can only end by the value.
        let _ = self.hanging.subscribe().wait_for(|hanging| !hanging).await;
    }

    pub(super) async fn before_launch(&self) -> Result<()> {
        self.before_call().await;
        let delay = *self.launch_delay.lock().unwrap_or_else(PoisonError::into_inner);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        take_one(&self.failing_launches, "the mock was told to fail this launch")
    }

    pub(super) async fn before_destroy(&self) -> Result<()> {
        self.before_call().await;
        take_one(&self.failing_destroys, "the mock was told to fail this destroy")
    }
}

fn take_one(left: &AtomicU32, message: &str) -> Result<()> {
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)) {
        Ok(_) => Err(Error::new(ErrorKind::Unavailable, message)),
        Err(_) => Ok(()),
    }
}
