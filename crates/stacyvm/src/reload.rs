//! SIGHUP: the settings are read again, and what can change without a restart does.

use stacyvm_api::Access;
use stacyvm_config::{Effect, Loaded, keys};
use stacyvm_control::Control;
use stacyvm_fleet::identity::KeyRing;

use crate::{
    logging::Levels,
    settings::{self, SettingArgs},
};

/// What this server runs with, and how to change it.
pub(crate) struct Reload {
    args: SettingArgs,
    running: Loaded,
    levels: Levels,
}

impl Reload {
    /// A server was started with these settings.
    pub(crate) const fn new(args: SettingArgs, running: Loaded, levels: Levels) -> Self {
        Self { args, running, levels }
    }

    /// Reads everything again. Settings with a problem change nothing.
    pub(crate) fn run(&mut self, control: &Control, access: &Access, workers: &KeyRing) {
        let read = match settings::read(&self.args) {
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
        let mut changed = 0;
        for key in keys() {
            let (before, after) = (key.text(&self.running.config), key.text(&read.config));
            if before == after {
                continue;
            }
            changed += 1;
            let (name, source) = (key.path, read.source(key.path));
            match key.effect {
                Effect::Reload => tracing::info!(key = name, before, after, %source, "changed"),
                Effect::Restart => {
                    tracing::warn!(key = name, before, after, %source, "needs a restart");
                }
            }
        }
        if let Err(error) = self.levels.change(read.config.logging.level.as_str()) {
            tracing::error!(error, "what is logged stays as it is");
            return;
        }
        control.set_rules(settings::rules(&read.config));
        if access.replace_operator_keys(&settings::operator_keys(&read.credentials)) {
            tracing::info!("the operator's keys are new ones");
        }
        if let Err(why) = workers.replace(settings::worker_keys(&read.config.auth)) {
            tracing::error!(why, "the worker credentials stay as they were");
        }
        // What needs a restart is named again each time until there was one.
        let running = &mut self.running.config;
        for key in keys().iter().filter(|key| key.effect == Effect::Reload) {
            key.copy(&read.config, running);
        }
        tracing::info!(changed, "the settings were reloaded");
    }
}
