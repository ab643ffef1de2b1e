//! SIGHUP: the settings are read again, and what can change without a restart does.

use stacyvm_config::{Config, Effect, Key, Loaded, Sources, keys};

use crate::logging::Levels;

/// What a process runs with, and how to change it.
pub(crate) struct Reload {
    sources: Box<dyn Fn() -> Sources + Send>,
    running: Loaded,
    levels: Levels,
    /// The keys that this process takes over without a restart.
    takes: fn(&Key) -> bool,
}

/// What `serve` takes over.
pub(crate) fn of_server(key: &Key) -> bool {
    key.effect == Effect::Reload
}

/// What `worker` takes over: the rest of what a server does is decided by its servers.
pub(crate) fn of_worker(key: &Key) -> bool {
    of_server(key) && (key.path.starts_with("auth.worker_") || key.path == "logging.level")
}

impl Reload {
    /// A process was started with these settings.
    pub(crate) fn new(
        sources: impl Fn() -> Sources + Send + 'static,
        running: Loaded,
        levels: Levels,
        takes: fn(&Key) -> bool,
    ) -> Self {
        Self { sources: Box::new(sources), running, levels, takes }
    }

    /// Reads everything again and applies it. Settings with a problem change nothing, and neither
    /// do those that `apply` refuses: it does so before it has changed anything.
    pub(crate) fn run(&mut self, apply: impl FnOnce(&Loaded) -> Result<(), String>) {
        let read = match stacyvm_config::load(&(self.sources)()) {
            Ok(read) => read,
            Err(refused) => {
                for problem in &refused.problems {
                    tracing::error!(%problem, "the settings were not reloaded");
                }
                return;
            }
        };
        for warning in &read.warnings {
            tracing::warn!("{warning}");
        }
        if let Err(problem) = apply(&read) {
            tracing::error!(%problem, "the settings were not reloaded");
            return;
        }
        if let Err(error) = self.levels.change(read.config.logging.level.as_str()) {
            tracing::error!(error, "what is logged stays as it is");
        }
        let changed = self.tell(&read);
        self.take_over(&read.config);
        tracing::info!(changed, "the settings were reloaded");
    }

    /// Says what is another value than before, and how many are.
    fn tell(&self, read: &Loaded) -> usize {
        let mut changed = 0;
        for key in keys() {
            let (before, after) = (key.text(&self.running.config), key.text(&read.config));
            if before == after {
                continue;
            }
            changed += 1;
            let (name, source) = (key.path, read.source(key.path));
            match (self.takes)(key) {
                true => tracing::info!(key = name, before, after, %source, "changed"),
                false => tracing::warn!(key = name, before, after, %source, "needs a restart"),
            }
        }
        changed
    }

    /// What needs a restart is named again each time until there was one.
    fn take_over(&mut self, config: &Config) {
        for key in keys().iter().filter(|key| (self.takes)(key)) {
            key.copy(config, &mut self.running.config);
        }
    }
}
