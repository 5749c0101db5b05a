//! Random histories of concurrent transactions, checked for serialisability.
//!
//! Each transaction logs what it did and what its reads returned. When it commits, the log is run
//! again, alone, on a model: a plain map with the effects of all commits so far. Every read must
//! return the same there. So the history equals one that runs transactions one by one, in the order
//! of their commits, which is also the order of real time. However it ends, its reads must also fit
//! the model as it was at its read version: a read-only transaction is serialised there, and one
//! that will be refused must not see nonsense first.

use super::mutate::added;
use super::{KeyRange, KvError, LocalTxn, Resolver, Store, Version};
use bytes::Bytes;
use core::ops::AddAssign;
use std::collections::BTreeMap;

type Model = BTreeMap<Bytes, Bytes>;

/// How many transactions ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub committed: usize,
    pub refused: usize,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.committed += other.committed;
        self.refused += other.refused;
    }
}

/// What a transaction did, with what its reads returned.
enum Done {
    Got(Bytes, Option<Bytes>),
    Ranged { range: KeyRange, limit: usize, reverse: bool, rows: Vec<(Bytes, Bytes)> },
    Set(Bytes, Bytes),
    Clear(Bytes),
    ClearRange(KeyRange),
    Add(Bytes, u64),
}

struct Open {
    txn: LocalTxn,
    log: Vec<Done>,
}

/// Transactions open at a time.
const SLOTS: u64 = 4;

/// Runs the history that `steps`, arbitrary numbers, describe. Panics if it is not serialisable.
pub fn check(store: Box<dyn Store>, steps: &[u64]) -> Outcome {
    let mut kv = Resolver::open(store).expect("an empty store opens");
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    let start = kv.read_version(0).expect("an empty store is read");
    let mut models: BTreeMap<Version, Model> = BTreeMap::from([(start, Model::new())]);
    let (mut outcome, mut now_us) = (Outcome::default(), 0);
    for step in steps {
        let mut dice = Dice(*step);
        now_us += dice.roll(200_000);
        let slot = dice.roll(SLOTS);
        if dice.roll(5) > 0 {
            let begin = || Open { txn: LocalTxn::begin(&mut kv, now_us), log: Vec::new() };
            let txn = open.entry(slot).or_insert_with(begin);
            if txn.step(&kv, &mut dice) == Err(KvError::TooOld) {
                open.remove(&slot);
                outcome.refused += 1;
            }
        } else if let Some(Open { txn, log }) = open.remove(&slot) {
            let read_only = txn.buffer.is_read_only();
            let mut seen = models[&txn.version].clone();
            log.iter().for_each(|done| replay(&mut seen, done));
            match txn.commit(&mut kv, now_us) {
                Ok(_) if read_only => {}
                Ok(committed) => {
                    let (_, last) = models.last_key_value().expect("the first is there");
                    let mut model = last.clone();
                    log.iter().for_each(|done| replay(&mut model, done));
                    models.insert(committed.version, model);
                    outcome.committed += 1;
                }
                Err(KvError::Conflict | KvError::TooOld) => outcome.refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    let everything = KeyRange::new("", &b"\xff"[..]);
    let rows = LocalTxn::begin(&mut kv, now_us).range(&kv, &everything, 0, false);
    let (_, model) = models.pop_last().expect("the first is there");
    assert_eq!(rows.expect("reads"), Vec::from_iter(model), "content after all commits");
    outcome
}

impl Open {
    fn step(&mut self, kv: &Resolver, dice: &mut Dice) -> Result<(), KvError> {
        let buffer = &mut self.txn.buffer;
        let done = match dice.roll(9) {
            0..3 => {
                let key = dice.key();
                let value = self.txn.get(kv, &key)?;
                Done::Got(key, value)
            }
            3..5 => {
                let (range, limit, reverse) = (dice.range(), dice.roll(4), dice.roll(2) == 1);
                let limit = limit as usize;
                let rows = self.txn.range(kv, &range, limit, reverse)?;
                Done::Ranged { range, limit, reverse, rows }
            }
            5 => {
                let range = dice.range();
                buffer.clear_range(range.clone());
                Done::ClearRange(range)
            }
            6 => {
                let key = dice.key();
                buffer.clear(key.clone());
                Done::Clear(key)
            }
            7 => {
                let (key, operand) = (dice.key(), dice.roll(1000));
                buffer.add(key.clone(), operand);
                Done::Add(key, operand)
            }
            _ => {
                let (key, value) = (dice.key(), Bytes::from(dice.roll(1000).to_string()));
                buffer.set(key.clone(), value.clone());
                Done::Set(key, value)
            }
        };
        self.log.push(done);
        Ok(())
    }
}

fn replay(model: &mut Model, done: &Done) {
    match done {
        Done::Got(key, value) => assert_eq!(model.get(key), value.as_ref(), "get of {key:?}"),
        Done::Ranged { range, limit, reverse, rows } => {
            let inside = model.iter().filter(|(key, _)| range.contains(key));
            let mut expected: Vec<_> = inside.map(|(k, v)| (k.clone(), v.clone())).collect();
            if *reverse {
                expected.reverse();
            }
            if *limit > 0 {
                expected.truncate(*limit);
            }
            assert_eq!(*rows, expected, "range {range:?}, limit {limit}, reverse {reverse}");
        }
        Done::Set(key, value) => {
            model.insert(key.clone(), value.clone());
        }
        Done::Clear(key) => {
            model.remove(key);
        }
        Done::ClearRange(range) => model.retain(|key, _| !range.contains(key)),
        Done::Add(key, operand) => {
            let sum = added(model.get(key).map(|value| &value[..]), *operand);
            model.insert(key.clone(), sum);
        }
    }
}

/// Choices drawn from one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        next_random(&mut self.0) % sides
    }

    /// One of few keys, so that transactions meet.
    fn key(&mut self) -> Bytes {
        Bytes::from(format!("{:02}", self.roll(24)))
    }

    fn range(&mut self) -> KeyRange {
        let (a, b) = (self.key(), self.key());
        KeyRange::new(a.clone().min(b.clone()), a.max(b))
    }
}

/// splitmix64: <https://prng.di.unimi.it/splitmix64.c>.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
