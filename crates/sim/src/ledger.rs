//! A fencing journal that is kept by its host and outlives the node.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use stacyvm_worker::Ledger;

use crate::{node::Life, plant::Plant, world::World};

/// What is on the host's disk.
pub(crate) type Page = Arc<Mutex<String>>;

pub(crate) struct SimLedger {
    pub(crate) world: World,
    pub(crate) life: Life,
    pub(crate) page: Page,
    /// Whether it keeps the generations.
    pub(crate) is_fencing: bool,
}

impl SimLedger {
    /// A dead node writes nothing.
    fn alive(&self) -> io::Result<()> {
        if self.life.is_dead() { Err(io::Error::other("the node is dead")) } else { Ok(()) }
    }
}

impl Ledger for SimLedger {
    fn read(&mut self) -> io::Result<String> {
        if self.is_fencing && self.world.has(Plant::FencingForgotten) {
            return Ok(String::new());
        }
        Ok(self.page.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.alive()?;
        self.page.lock().unwrap_or_else(PoisonError::into_inner).push_str(line);
        Ok(())
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        self.alive()?;
        text.clone_into(&mut self.page.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn name(&self) -> String {
        format!("of {}", self.life.name())
    }
}
