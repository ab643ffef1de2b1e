//! The conformance suite: one case for each promise of [`Provider`], [`Guest`] and
//! [`crate::Images`], chosen by declared [`Capabilities`].
//!
//! [`run`] makes a test of every case with every provider. A provider that cannot run on this
//! host, and a case that a provider's capabilities do not select, are reported as ignored with the
//! reason, never as passed.
//!
//! Cases name files of a sandbox relative to its working directory in commands, and below
//! `/workspace` in file calls, so that they hold for providers that do not isolate too.

mod background;
mod deadline;
mod environment;
mod exec;
mod files;
mod images;
mod isolation;
mod launch;
mod limits;
mod links;
mod names;
mod output;
mod paths;
mod runner;
mod scene;
mod terminal;
mod uploads;

use futures_util::future::BoxFuture;

use crate::Capabilities;
#[cfg(doc)]
use crate::{Guest, Provider};

pub use runner::{Subject, run, trials};
pub use scene::{
    Done, Restart, Sandbox, Scene, argv, body, collect_from, eventually, fresh_id, shell, soon,
};

/// One promise and how it is looked at.
pub struct Case {
    /// A sentence, with underscores.
    pub name: &'static str,
    /// Whether a provider with these capabilities made the promise.
    pub needs: fn(&Capabilities) -> bool,
    /// Panics when the promise is not kept.
    pub run: fn(Scene) -> BoxFuture<'static, ()>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        launch::cases(),
        exec::cases(),
        environment::cases(),
        output::cases(),
        background::cases(),
        deadline::cases(),
        terminal::cases(),
        files::cases(),
        uploads::cases(),
        paths::cases(),
        links::cases(),
        names::cases(),
        limits::cases(),
        isolation::cases(),
        images::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Lists the cases of a module, each with the capabilities that select it.
macro_rules! list {
    ($($name:ident if $needs:expr;)*) => {
        pub(super) fn cases() -> Vec<$crate::suite::Case> {
            vec![$($crate::suite::Case {
                name: stringify!($name),
                needs: $needs,
                run: |scene| Box::pin($name(scene)),
            },)*]
        }
    };
}
pub(crate) use list;
