//! The host: one actor in each storage node. It opens the node's targets, makes those that the
//! routing names and that may be made, and ends those that were replaced or that a human stops.
//!
//! [`core`] decides, [`birth`] says where a target may begin empty; this file awaits between the
//! decisions, [`asked`] answers. A target begins so: its folder is there or is made; an *opening*
//! of it is drawn, durably; mgmtd is asked whether this data is the latest; that is confirmed,
//! durably; only then the target's actor starts. So a disk that was restored from an old copy says
//! nothing to anybody before it is known for that.
//!
//! What differs between a process and the simulator is behind [`HostWorks`].

mod asked;
mod birth;
mod core;

use ::core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Actor, Addr, Ask, Bell, Cx, DiskError, DiskId, Me, Slot, Time, join_all};

pub use self::core::{Book, Entry, Place, Wish};
use self::core::{Content, Folder, HostCore, How, Inventory, Line, Step};
use super::engine::{self, SUPERBLOCK};
use crate::planted::PlantedBug;
use crate::proto::agent::{Agent, WatchView};
use crate::proto::host::StorageHost;
use crate::proto::ids::TargetId;
use crate::proto::mgmtd::{ClaimTargets, Claimed, Opening, TargetClaim};
use crate::timing::is_longer;

/// What a host does to the world beside its disks. An error is a sentence.
pub trait HostWorks: 'static {
    /// Makes an empty target, whose folder holds none.
    fn make(&self, cx: &Cx, place: Place) -> impl Future<Output = Result<(), String>>;
    /// Opens a target and starts its actor, which reports itself to the agent.
    fn start(&self, cx: &Cx, place: Place) -> impl Future<Output = Result<(), String>>;
    /// Ends a target: it serves nothing any more, then the agent hears that it is offline, then its
    /// engine is closed.
    fn stop(&self, cx: &Cx, target: TargetId) -> impl Future<Output = Result<(), String>>;
    /// Stores the book, durably.
    fn store(&self, cx: &Cx, book: Book) -> impl Future<Output = Result<(), String>>;
}

pub struct HostConfig<W> {
    pub cluster: String,
    /// Those that are there.
    pub disks: Vec<DiskId>,
    /// As it was stored last.
    pub book: Book,
    pub agent: Addr<Agent>,
    pub works: W,
    /// Filled once all targets that are here run, or cannot yet, or are not to: from then on the
    /// node can announce what it has.
    pub first: Slot<()>,
}

/// The host of a storage node's targets.
pub struct Host<W> {
    core: HostCore,
    works: Rc<W>,
    agent: Addr<Agent>,
    disks: Vec<DiskId>,
    first: Slot<()>,
    /// When the host did.
    began: Time,
    /// The folders have to be looked at (again), now or, for disks that did not answer, then.
    look: bool,
    look_again: Option<Time>,
    /// Filled to look for something to do now.
    hurry: Slot<()>,
    /// For those who wait for what was noted to be done.
    settled: Bell,
}

impl<W: HostWorks> Actor for Host<W> {
    type Protocol = StorageHost;
}

/// Between attempts at what did not work because others were not there.
const AGAIN: Duration = Duration::from_millis(300);
/// How long mgmtd is asked about openings at a time.
const CLAIM_MAX: Duration = Duration::from_secs(5);
/// Between looks at disks that do not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a disk may take to say what is on it, or to note an opening.
const LOOK_MAX: Duration = Duration::from_secs(20);
/// How long a node waits for its first targets before it announces what it has.
const FIRST_MAX: Duration = Duration::from_secs(30);
const _: () = assert!(is_longer(FIRST_MAX, 1, LOOK_MAX) && is_longer(LOOK_MAX, 1, LOOK_AGAIN));
const _: () = assert!(!is_longer(CLAIM_MAX, 1, <ClaimTargets as Ask<Agent>>::TIMEOUT));

/// Of a target, on its disk.
pub fn target_dir(target: TargetId) -> String {
    format!("{TARGETS}/{target}")
}

const TARGETS: &str = "targets";

/// When to try again what could not be done yet. `None`: nothing is left.
type Again = Option<Duration>;

impl<W: HostWorks> Host<W> {
    pub fn start(cx: &Cx, config: HostConfig<W>) -> Addr<StorageHost> {
        let HostConfig { cluster, disks, book, agent, works, first } = config;
        let host = Host {
            core: HostCore::new(cx.node(), &cluster, book, cx.planted()),
            works: Rc::new(works),
            agent,
            disks,
            first,
            began: cx.now(),
            look: true,
            look_again: None,
            hurry: Slot::new(),
            settled: Bell::default(),
        };
        let (addr, me) = cx.start_with(host);
        let long = cx.outlive();
        cx.spawn(async move { Self::follow(&me, &long).await });
        addr
    }

    /// For ever: does what there is to do, and waits for news of the cluster or for a human.
    async fn follow(me: &Me<Self>, cx: &Cx) {
        let mut own_number = 0;
        loop {
            let hurry = me.with(|h| {
                h.hurry = Slot::new();
                h.hurry.clone()
            });
            let again = Self::settle(me, cx).await;
            let (agent, have) = me.with(|h| (h.agent, h.core.view().version));
            let door = again.map_or_else(|| cx.clone(), |pause| cx.within(pause));
            let asked = door.ask(agent, WatchView { have, own_number });
            match before(asked, hurry).await {
                Some(Ok(news)) => {
                    own_number = news.own_number;
                    if let Some(view) = news.view {
                        me.with(|h| h.core.adopt(view));
                    }
                }
                Some(Err(_)) => cx.sleep(AGAIN / 4).await,
                None => {} // a human wants something
            }
        }
    }

    /// Does what there is to do, and says what that has come to.
    async fn settle(me: &Me<Self>, cx: &Cx) -> Again {
        // What cannot be done yet.
        let (mut settled, mut pause) = (true, AGAIN);
        loop {
            let now = cx.now();
            if me.with(|h| std::mem::take(&mut h.look) || h.look_again.is_some_and(|at| at <= now))
            {
                let disks = me.with(|h| h.disks.clone());
                let (inventory, complete) = look(cx, &disks).await;
                let again = (!complete).then(|| cx.now() + LOOK_AGAIN);
                me.with(|h| {
                    h.look_again = again;
                    h.core.found(inventory);
                });
            }
            let mut steps = me.with(|h| h.core.plan());
            // A wish or a place is stored before anything is done for it. Other targets begin all
            // the same.
            if !Self::store(me, cx).await {
                (settled, pause) = (false, LOOK_AGAIN);
                me.with(|h| steps.retain(|step| h.core.is_stored(step.target())));
            }
            if steps.is_empty() {
                break;
            }
            if !Self::carry_out(me, steps, cx).await {
                settled = false;
                break;
            }
        }
        let now = cx.now();
        me.with(|h| {
            // What waits for others is told, too, when it takes long.
            if settled || now.since(h.began) > FIRST_MAX {
                say(h.core.lines());
                if h.core.view().version.0 > 0 {
                    h.first.fill(());
                }
            }
            if settled {
                h.settled.ring(());
            }
            let look = h.look_again.map(|at| at.since(now));
            look.into_iter().chain((!settled).then_some(pause)).min()
        })
    }

    /// `false`: the book cannot be stored.
    async fn store(me: &Me<Self>, cx: &Cx) -> bool {
        let Some(book) = me.with(|h| h.core.unstored()) else { return true };
        let works = me.with(|h| Rc::clone(&h.works));
        match works.store(cx, book.clone()).await {
            Ok(()) => {
                me.with(|h| h.core.stored(book));
                true
            }
            Err(why) => {
                tracing::error!("the list of targets cannot be stored: {why}");
                false
            }
        }
    }

    /// `false`: some of it has to wait for others.
    async fn carry_out(me: &Me<Self>, steps: Vec<Step>, cx: &Cx) -> bool {
        let works = me.with(|h| Rc::clone(&h.works));
        let (mut begin, mut all_done) = (Vec::new(), true);
        for step in steps {
            match step {
                Step::Begin(place, how) => begin.push((place, how)),
                Step::Stop(target) => {
                    if let Err(why) = works.stop(cx, target).await {
                        tracing::error!("target {target} does not end well: {why}");
                    }
                    me.with(|h| h.core.ended(target));
                    tracing::info!("target {target} has ended");
                }
                Step::Clear(place) => {
                    let cleared = clear(cx, place).await;
                    me.with(|h| h.look = true);
                    if let Err(why) = cleared {
                        let target = place.target;
                        tracing::error!("the data of target {target} does not go: {why}");
                        all_done = false;
                    }
                }
            }
        }
        all_done & Self::begin(me, begin, cx).await
    }

    /// Begins targets: see the top of this file.
    async fn begin(me: &Me<Self>, targets: Vec<(Place, How)>, cx: &Cx) -> bool {
        // All at once: several on a disk that hangs cost the others no more than one.
        let openings = targets.into_iter().map(async |(place, how)| {
            let opening = Self::opening(me, place, how, cx).await;
            let failed = |why| me.with(|h| h.core.failed(place.target, why));
            Some((place, opening.map_err(failed).ok()?))
        });
        let opened: Vec<_> = join_all(openings).await.into_iter().flatten().collect();
        if opened.is_empty() {
            return true;
        }
        let claims = opened.iter().map(|(_, claim)| claim.clone()).collect();
        let agent = me.with(|h| h.agent);
        let asked = cx.within(CLAIM_MAX).ask(agent, ClaimTargets { claims }).await;
        let claimed = match asked {
            // The primary is of an earlier build, which takes every copy for the latest.
            Ok(Ok(None)) => vec![Claimed::Latest; opened.len()],
            Ok(Ok(Some(claimed))) if claimed.len() == opened.len() => claimed,
            Ok(Ok(Some(_)) | Err(_)) | Err(_) => return false,
        };
        let bug = PlantedBug::OldCopyBegins.is_in(cx);
        let start = async |place: Place, opening, claimed| match claimed {
            Claimed::OldCopy { latest } if !bug => me.with(|h| h.core.is_old(place.target, latest)),
            _ => match Self::start_one(me, place, opening, cx).await {
                Ok(()) => {
                    tracing::info!("target {} of chain {} is here", place.target, place.chain);
                    me.with(|h| h.core.began(place.target));
                }
                Err(why) => me.with(|h| h.core.failed(place.target, why)),
            },
        };
        let started = opened.iter().zip(claimed);
        let started =
            started.map(|((place, claim), claimed)| start(*place, claim.opening, claimed));
        join_all(started).await;
        true
    }

    /// The data of a target is the latest, or is brought up to date before it serves.
    async fn start_one(
        me: &Me<Self>,
        place: Place,
        opening: Opening,
        cx: &Cx,
    ) -> Result<(), String> {
        let dir = target_dir(place.target);
        let confirmed = engine::confirm(cx, place.disk, &dir, opening);
        let confirmed = cx.within(LOOK_MAX).in_time(confirmed).await;
        confirmed.ok_or("its disk does not answer")?.map_err(|e| e.to_string())?;
        let works = me.with(|h| Rc::clone(&h.works));
        works.start(cx, place).await
    }

    /// Makes a target if it is to be made, and advances its opening.
    async fn opening(
        me: &Me<Self>,
        place: Place,
        how: How,
        cx: &Cx,
    ) -> Result<TargetClaim, String> {
        let target = place.target;
        let adopt = match how {
            How::Open => None,
            How::Again { latest } => {
                if me.with(|h| h.core.is_filled(target)) {
                    tracing::warn!("target {target} is an old copy, and will be synced");
                }
                Some(latest)
            }
            How::Make { again } => {
                me.with(|h| {
                    h.look = true;
                    h.core.is_made(target);
                });
                let works = me.with(|h| Rc::clone(&h.works));
                works.make(cx, place).await?;
                if again {
                    tracing::warn!("target {target} begins again, empty, and will be synced");
                }
                None
            }
        };
        if let Some(claim) = me.with(|h| h.core.opening(target)) {
            return Ok(claim);
        }
        let dir = target_dir(target);
        let claim = engine::advance(cx, place.disk, &dir, target, adopt);
        let claim = cx.within(LOOK_MAX).in_time(claim).await.ok_or("its disk does not answer")?;
        let claim = claim.map_err(|e| e.to_string())?;
        me.with(|h| h.core.opened(claim.clone()));
        Ok(claim)
    }
}

fn say(lines: Vec<Line>) {
    for line in lines {
        match line {
            Line::Bad(text) => tracing::error!("{text}"),
            Line::Odd(text) => tracing::warn!("{text}"),
        }
    }
}

/// What is in the folders of targets. `false`: a disk does not answer, and counts as missing.
async fn look(cx: &Cx, disks: &[DiskId]) -> (Inventory, bool) {
    let (mut found, mut complete) = (Inventory::default(), true);
    let looked = join_all(disks.iter().map(async |disk| {
        let cx = cx.within(LOOK_MAX);
        (*disk, cx.in_time(folders(&cx, *disk)).await)
    }));
    for (disk, folders) in looked.await {
        let why = match folders {
            Some(Ok(folders)) => {
                found.disks.insert(disk);
                found.folders.extend(folders);
                continue;
            }
            Some(Err(why)) => why.to_string(),
            None => format!("nothing for {LOOK_MAX:?}"),
        };
        tracing::error!("disk {} does not answer: {why}", disk.0);
        complete = false;
    }
    (found, complete)
}

async fn folders(cx: &Cx, disk: DiskId) -> Result<Vec<Folder>, DiskError> {
    let names = match cx.disk(disk).list(TARGETS).await {
        Err(DiskError::NotFound) => return Ok(Vec::new()),
        names => names?,
    };
    let mut folders = Vec::new();
    for target in names.iter().filter_map(|n| n.parse().ok()).map(TargetId) {
        let dir = target_dir(target);
        // One folder that cannot be read is no reason to leave the others alone.
        let content = match cx.disk(disk).list(&dir).await {
            Ok(names) if names.is_empty() => continue,
            Err(e) => Content::Unreadable(e.to_string()),
            Ok(_) => match engine::identity(cx, disk, &dir).await {
                Ok(Some(identity)) => Content::Target(identity),
                Ok(None) => Content::Unfinished,
                Err(e) => Content::Unreadable(e.to_string()),
            },
        };
        folders.push(Folder { target, disk, content });
    }
    Ok(folders)
}

/// Removes a target's data. The superblock goes first: what is left of the rest is no target.
async fn clear(cx: &Cx, place: Place) -> Result<(), DiskError> {
    let (disk, dir) = (cx.disk(place.disk), target_dir(place.target));
    let names = disk.list(&dir).await?;
    if names.iter().any(|n| n == SUPERBLOCK) {
        disk.remove(&format!("{dir}/{SUPERBLOCK}")).await?;
        disk.sync_dir(&dir).await?;
    }
    for name in names.iter().filter(|n| *n != SUPERBLOCK) {
        disk.remove(&format!("{dir}/{name}")).await?;
    }
    disk.sync_dir(&dir).await
}
