//! Checks: a cluster, a workload, faults, and what must hold; run seed by seed.
//!
//! A check is a function of a [`Run`]. It builds its nodes in `run.world`, lets clients work, plays
//! a swarm, heals, demands progress, and says what was violated. What it draws comes from
//! `run.world.rng(..)`, so a seed is the whole of it.

mod bursts;
mod chain;
mod disk;
pub mod engine;
mod files;
mod hands;
mod hosts;
mod members;
mod metas;
mod mgmtd;

use crate::trace::Sink;
use crate::world::World;

/// One named check.
#[derive(Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    /// One line for the list.
    pub about: &'static str,
    pub run: fn(&Run<'_>) -> Result<(), String>,
    /// Deliberate bugs that the check must find: it runs with each on request only.
    pub mutants: &'static [&'static str],
}

impl Check {
    /// Faults and operations that a run may leave out, to look at the rest alone.
    pub fn parts(&self) -> &'static [&'static str] {
        if self.name == files::CHECK.name { files::PARTS } else { &[] }
    }
}

/// One seed of a check.
pub struct Run<'a> {
    pub world: &'a World,
    /// What the check is to leave out of its faults and operations, by its own words.
    pub without: &'a [String],
}

impl Run<'_> {
    /// Whether the run is to make this mistake, for those that the check itself makes.
    pub fn has(&self, mutant: &str) -> bool {
        self.world.planted() == Some(mutant)
    }

    /// Whether the check is to do this.
    pub fn with(&self, what: &str) -> bool {
        !self.without.iter().any(|w| w == what)
    }
}

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub result: Result<(), String>,
    /// Digest of the whole log.
    pub hash: u64,
    pub events: u64,
    pub polls: u64,
    pub virtual_us: u64,
    pub coverage: Vec<(&'static str, u64)>,
}

/// Every check there is.
pub const ALL: &[Check] = &[
    disk::CHECK,
    engine::CHECK,
    chain::CHECK,
    mgmtd::CHECK,
    hosts::CHECK,
    members::CHECK,
    metas::CHECK,
    files::CHECK,
];

/// Runs one seed of a check in a world of its own.
pub fn run_seed(check: &Check, seed: u64, mutant: Option<&str>, log: Option<Sink>) -> Outcome {
    run_part(check, seed, mutant, &[], log)
}

/// The same without some of its faults and operations.
pub fn run_part(
    check: &Check,
    seed: u64,
    mutant: Option<&str>,
    without: &[String],
    log: Option<Sink>,
) -> Outcome {
    let world = World::new(seed);
    world.plant(mutant.map(|mutant| {
        let known = check.mutants.iter().copied().find(|known| *known == mutant);
        known.unwrap_or_else(|| panic!("the check {} has no mutant {mutant}", check.name))
    }));
    if let Some(sink) = log {
        world.log_to(sink);
    }
    let result = (check.run)(&Run { world: &world, without });
    Outcome {
        seed,
        result,
        hash: world.log_hash(),
        events: world.events(),
        polls: world.polls(),
        virtual_us: world.now_us(),
        coverage: world.coverage(),
    }
}
