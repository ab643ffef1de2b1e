//! What other servers on the same database did, passed on to whoever waits for it here. Whoever
//! waits also looks from time to time, so a hint that is lost costs time and nothing else.

use crate::Control;

impl Control {
    /// Passes the store's hints on until the server stops, if the store has any.
    pub(crate) fn follow_hints(&self) {
        let Some(mut hints) = self.store().hints() else { return };
        let (control, stopping) = (self.clone(), self.0.parts.stopping.clone());
        self.0.parts.tasks.spawn(async move {
            let follow = async {
                loop {
                    tokio::select! {
                        Ok(()) = hints.events.changed() => control.0.recorder.appended(),
                        Ok(()) = hints.places.changed() => control.0.queue.freed_elsewhere(),
                        else => return,
                    }
                }
            };
            stopping.run_until_cancelled(follow).await;
        });
    }
}
