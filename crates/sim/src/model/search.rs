//! Every state, breadth first, so that what is found first is a shortest way to it.

use std::{collections::HashSet, fmt};

use super::{
    Rules, State,
    steps::{self, What},
};

/// A model whose every state was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// The states that it can get into.
    pub states: usize,
    /// The steps of the longest way to one that no shorter way leads to.
    pub depth: usize,
}

/// A shortest way to a state that breaks a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The promise.
    pub promise: &'static str,
    /// What happens, in order.
    pub way: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken:", self.promise)?;
        self.way.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

/// Looks at every state of the protocol under these rules.
///
/// # Errors
/// When one breaks a promise.
pub fn check(rules: Rules) -> Result<Checked, Broken> {
    let first = State::first();
    let mut known = HashSet::from([first]);
    // Each state with the one before it, and how it came from it.
    let mut states: Vec<(u32, Option<What>)> = vec![(0, None)];
    let (mut layer, mut depth) = (vec![(0, first)], 0);
    while !layer.is_empty() {
        let mut further = Vec::new();
        for (index, state) in &layer {
            for (what, next) in steps::after(state, rules) {
                if !known.insert(next) {
                    continue;
                }
                let number = u32::try_from(states.len()).unwrap_or(u32::MAX);
                states.push((*index, Some(what)));
                if let Some(promise) = next.broken() {
                    return Err(Broken { promise, way: way(&states, number) });
                }
                further.push((number, next));
            }
        }
        depth += usize::from(!further.is_empty());
        layer = further;
    }
    Ok(Checked { states: states.len(), depth })
}

fn way(states: &[(u32, Option<What>)], mut at: u32) -> Vec<String> {
    let mut way = Vec::new();
    while let Some((before, Some(what))) = states.get(at as usize) {
        way.push(format!("{what:?}"));
        at = *before;
    }
    way.reverse();
    way
}
