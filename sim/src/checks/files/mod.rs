//! Clients that share files, over everything that a cluster has, while anything goes down and
//! comes back: no acknowledged write is lost, nobody reads what could not be there, nobody waits
//! for ever, and nothing is left over.
//!
//! `options` draws what a seed does, `cluster` builds it, `user` is what clients do, `door` the
//! only place that names the client's methods, `storm` what goes wrong beside a swarm, and `calm`
//! what must hold in the end. What clients may see is decided by [`crate::oracles::files`]. A few
//! seeds play one of the `stories` instead, which chance would tell too seldom.

mod calm;
mod clients;
mod cluster;
mod dentries;
mod door;
mod options;
mod stories;
mod storm;
mod user;

use core::time::Duration;
use std::rc::Rc;

use t3fs_actors::proto::meta::ROOT;
use t3fs_runtime::Cx;

use super::{Check, Run};
use crate::world::Halt;
use clients::Clients;
use cluster::{Cluster, Sizes};
pub(in crate::checks) use options::PARTS;
use options::{Options, Story};
use stories::{LeverSlot, Levers};
use user::{Stage, User};

pub(super) const CHECK: Check = Check {
    name: "files",
    about: "clients that share files lose no acknowledged write and see what POSIX allows",
    run,
    mutants: &[
        "append-at-known-end",
        "append-at-own-end",
        "append-guard-ends",
        "append-waits-inside",
        "barrier-at-once",
        "barrier-forgets",
        "close-keeps-length",
        "commit-early",
        "failed-flight-silent",
        "holds-ignored",
        "names-kept",
        "open-without-hold",
        "report-ignores-cuts",
        "room-without-reserve",
        "seen-ignored",
        "stale-report-taken",
        "wait-ignores-deadline",
    ],
};

/// Faults end here at the latest; then everything must get done.
const STORM: Duration = Duration::from_secs(12);
/// Everything is well, so nobody waits for long.
const CALM: Duration = Duration::from_secs(150);
/// Longer than any client tries: for chains that do not come back, because their disks are bad.
const TRIED: Duration = Duration::from_secs(700);

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let (mut sizes, story) = (Sizes::draw(&world.rng(1)), Story::draw(run));
    let mut options = Options::draw(run, sizes.chunk_size);
    if let Some(story) = story {
        story.set(&mut sizes, &mut options);
    }
    world.note(&[], format_args!("{sizes:?} {options:?}"));
    let stage = Rc::new(Stage::new(options));
    let (bad_disks, clients) = (stage.options.bad_disks(), stage.options.clients);
    let (levers, sim) = (Rc::new(LeverSlot::default()), world.handle());
    let each = Clients { stage: Rc::clone(&stage), levers: Rc::clone(&levers), sim };
    let client = move |cx: Cx, number: u32| each.clone().client(cx, number);
    let cluster = Cluster::build(run, sizes, bad_disks, clients, client);
    cluster.make_chains(run)?;
    levers.put(Levers::new(world, &cluster, &stage, STORM));
    let (s, sim) = (Rc::clone(&stage), world.handle());
    let made = world.block_on(cluster.outside, |cx| async move {
        let user = User::outside(Rc::clone(&s), cx.clone(), sim).await;
        let dir = user.door().mkdir(&cx, ROOT, b"d").await.map_err(|e| e.to_string())?;
        // Nobody is there when the first of the clients comes.
        user.door().stop(&cx).await.map_err(|e| e.to_string())?;
        s.dir.set(Some(dir.inode));
        Ok::<(), String>(())
    });
    made.map_err(|h| format!("no directory: {h:?}"))??;

    let began = world.now_us();
    storm::begin(world, &cluster, &stage, STORM);
    if let Err(h) = world.run_until(|| stage.finished(), STORM)
        && h != Halt::Late
    {
        return Err(format!("the storm ended with {h:?}"));
    }
    storm::end(world, &cluster, &stage);
    let healed = world.now_us();
    let sound = !stage.options.bad_disks();
    world
        .run_until(|| stage.finished(), if sound { CALM } else { TRIED })
        .map_err(|h| format!("not all users got done: {h:?}\n{}", stage.waiting()))?;
    let done = world.now_us();
    levers.clear();
    let (s, sim, plan, kv) = (Rc::clone(&stage), world.handle(), cluster.plan.clone(), cluster.kv);
    world
        .block_on(cluster.outside, move |cx| calm::settle(s, cx, sim, plan, kv, sound))
        .map_err(|h| format!("the end is never reached: {h:?}"))??;
    let ops = stage.files.borrow().len();
    let (storm, calm) = (healed - began, done - healed);
    let rest = world.now_us() - done;
    let text = format_args!("{ops} operations; storm {storm} us, calm {calm} us, rest {rest} us");
    world.note(&[ops as u64], text);
    Ok(())
}
