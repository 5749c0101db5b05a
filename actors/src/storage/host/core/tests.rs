//! The core without a runtime: one host, a chain of two, and what becomes of the host's target.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::proto::ids::{ChainVersion, ViewVersion};
use crate::proto::mgmtd::Routing;
use TargetState::{LastServing, Offline, Serving, Syncing, Waiting};

const ME: NodeId = NodeId(1);
const MINE: TargetId = TargetId(11);
const CHAIN: ChainId = ChainId(3);

fn target(n: u32, node: u32, state: TargetState, made: bool) -> ChainTarget {
    ChainTarget { target: TargetId(n), node: NodeId(node), addr: None, state, made }
}

fn view(version: u64, targets: Vec<ChainTarget>) -> ClusterView {
    let chain = Chain { id: CHAIN, version: ChainVersion(1), targets };
    let routing = Routing { chains: vec![chain], ..Routing::default() };
    ClusterView {
        version: ViewVersion(version),
        routing: Arc::new(routing),
        ..ClusterView::default()
    }
}

/// The target of this host in one state, that of the other host in another.
fn pair(version: u64, mine: TargetState, other: TargetState) -> ClusterView {
    view(version, vec![target(11, 1, mine, true), target(12, 2, other, true)])
}

fn whole(disk: u16) -> Folder {
    let id = TargetIdentity { cluster: "c".into(), target: MINE, chain: CHAIN };
    Folder { target: MINE, disk: DiskId(disk), content: Content::Target(id) }
}

fn disks(present: &[u16], folders: Vec<Folder>) -> Inventory {
    Inventory { disks: present.iter().map(|d| DiskId(*d)).collect(), folders }
}

fn book(disk: u16, wish: Wish) -> Book {
    [(MINE, Entry { chain: CHAIN, disk: DiskId(disk), wish })].into()
}

fn host(book: Book, found: Inventory, view: ClusterView) -> HostCore {
    let mut host = HostCore::new(ME, "c", book, None);
    host.found(found);
    host.adopt(view);
    host
}

fn at(disk: u16) -> Place {
    Place { target: MINE, chain: CHAIN, disk: DiskId(disk) }
}

fn state(host: &HostCore) -> HostTargetState {
    host.list().into_iter().find(|t| t.target == MINE).expect("it is listed").state
}

/// Goal: what there is is opened where it is, and the book follows.
#[test]
fn disks_that_were_swapped_change_nothing_but_the_book() {
    let found = disks(&[0, 1], vec![whole(1)]);
    let mut host = host(book(0, Wish::Run), found, pair(1, LastServing, Offline));
    assert_eq!(host.plan(), [Step::Begin(at(1), How::Open)]);
    host.began(MINE);
    assert_eq!((host.plan(), host.unstored()), (vec![], Some(book(1, Wish::Run))));
    assert_eq!(state(&host), HostTargetState::Runs);
}

/// Goal: nothing is decided before the cluster is known.
#[test]
fn without_a_view_nothing_begins() {
    let mut host = host(book(0, Wish::Run), disks(&[0], vec![whole(0)]), ClusterView::default());
    assert_eq!(host.plan(), []);
}

/// Goal: a disk that is away is waited for, not replaced.
#[test]
fn a_missing_disk_is_not_made_up_for() {
    let mut host = host(book(1, Wish::Run), disks(&[0], vec![]), pair(1, Offline, Serving));
    assert_eq!((host.plan(), state(&host)), (vec![], HostTargetState::DiskMissing));
    let told = host.lines();
    assert_eq!(told, [Line::Bad("target 11 of chain 3: its disk is not there".into())]);
    assert_eq!(host.lines(), [], "said once");
    host.found(disks(&[0, 1], vec![]));
    assert_eq!(host.plan(), [Step::Begin(at(1), How::Make { again: true })]);
}

/// Goal: folders that are not the target's, or that are two, are left alone.
#[test]
fn other_folders_are_refused() {
    let id = |cluster: &str, target| TargetIdentity {
        cluster: cluster.into(),
        target: TargetId(target),
        chain: CHAIN,
    };
    let holds = |content| vec![Folder { target: MINE, disk: DiskId(0), content }];
    let cases = [
        (holds(Content::Target(id("other", 11))), "cluster \"other\""),
        (holds(Content::Target(id("c", 12))), "target 12"),
        (holds(Content::Unreadable("its superblock is damaged".into())), "damaged"),
        (vec![whole(0), whole(1)], "on disk 0 and on disk 1"),
    ];
    for (folders, says) in cases {
        let mut host = host(Book::new(), disks(&[0, 1], folders), pair(1, Offline, Serving));
        assert_eq!(host.plan(), []);
        let HostTargetState::StaysAway(why) = state(&host) else { panic!("{says}") };
        assert!(why.contains(says), "{why}");
    }
    // What an unfinished making left is no target.
    let mut host =
        host(Book::new(), disks(&[0, 1], holds(Content::Unfinished)), pair(1, Offline, Serving));
    assert_eq!(host.plan(), [Step::Begin(at(0), How::Make { again: true })]);
}

/// Goal: data of another metadata store is left alone, and begins when its own store is back.
#[test]
fn data_of_another_store_stays_away() {
    let there = disks(&[0], vec![whole(0)]);
    let unmade = |version| view(version, vec![target(11, 1, Serving, false)]);
    let mut host = host(book(0, Wish::Run), there, unmade(1));
    assert_eq!(host.plan(), [Step::Begin(at(0), How::Open)]);
    host.is_old(MINE, Opening::default());
    assert_eq!(host.plan(), []);
    let HostTargetState::StaysAway(why) = state(&host) else { panic!("it is not for this store") };
    assert!(why.contains("another metadata store"), "{why}");
    host.adopt(pair(2, LastServing, Offline));
    assert_eq!(host.plan(), [Step::Begin(at(0), How::Open)]);
}

/// Goal: an old copy is as good as no data.
#[test]
fn an_old_copy_begins_as_if_it_were_empty() {
    let found = || disks(&[0], vec![whole(0)]);
    let mut host = host(book(0, Wish::Run), found(), pair(1, LastServing, Offline));
    assert_eq!(host.plan(), [Step::Begin(at(0), How::Open)]);
    let latest = Opening { number: 7, nonce: 1 };
    host.is_old(MINE, latest);
    assert_eq!((host.plan(), state(&host)), (vec![], HostTargetState::StaysAway(OLD_STAYS.into())));
    host.adopt(pair(2, Offline, LastServing));
    assert_eq!((host.plan(), state(&host)), (vec![], HostTargetState::Waits(OLD_WAITS.into())));
    host.adopt(pair(3, Offline, Serving));
    assert_eq!(host.plan(), [Step::Begin(at(0), How::Again { latest })]);
}

/// Goal: who was replaced does not come back: it is said once, and its data stays until a human
/// removes it. Who is replaced while it runs ends.
#[test]
fn who_was_replaced_is_retired() {
    let replaced = |v| view(v, vec![target(12, 2, Serving, true), target(13, 3, Serving, true)]);
    let mut core = host(book(0, Wish::Run), disks(&[0], vec![whole(0)]), replaced(1));
    assert_eq!(core.plan(), []);
    assert!(matches!(state(&core), HostTargetState::Retired(_)));
    assert_eq!((core.lines().len(), core.lines().len()), (1, 0));
    assert_eq!(core.want_removed(MINE), Ok(()));
    assert_eq!(core.unstored(), Some(book(0, Wish::Removed)));
    assert_eq!(core.plan(), [Step::Clear(at(0))]);
    core.found(disks(&[0], vec![]));
    assert_eq!((core.plan(), core.unstored()), (vec![], Some(Book::new())));
    assert!(core.list().iter().all(|t| t.target != MINE), "nothing is remembered");

    // Another host has this very target.
    let moved = view(1, vec![target(11, 4, Serving, true)]);
    let core = host(book(0, Wish::Run), disks(&[0], vec![whole(0)]), moved.clone());
    assert!(matches!(state(&core), HostTargetState::Retired(_)));
    // The disk is another host's: it is not this host's to remove.
    let mut core = host(Book::new(), disks(&[0], vec![whole(0)]), moved);
    assert!(matches!(state(&core), HostTargetState::StaysAway(_)));
    assert_eq!(core.want_removed(MINE), Err(HostError::Needed(CHAIN)));

    let mut core = host(Book::new(), disks(&[0], vec![whole(0)]), pair(1, Serving, Serving));
    assert_eq!(core.plan(), [Step::Begin(at(0), How::Open)]);
    core.began(MINE);
    core.adopt(replaced(2));
    assert_eq!(core.plan(), [Step::Stop(MINE)]);
    core.ended(MINE);
    assert!(core.plan().is_empty() && matches!(state(&core), HostTargetState::Retired(_)));
}

/// Goal: a human's wish outlasts the process, and is taken back by `MakeTarget` alone.
#[test]
fn what_a_human_has_stopped_stays_so() {
    let found = || disks(&[0, 1], vec![whole(0)]);
    let mut core = host(Book::new(), found(), pair(1, Serving, Serving));
    assert_eq!(core.want_stopped(MINE), Err(HostError::NoSuchTarget));
    assert_eq!(core.plan(), [Step::Begin(at(0), How::Open)]);
    core.began(MINE);
    assert_eq!(core.want_removed(MINE), Err(HostError::Runs));
    assert_eq!(core.want_stopped(MINE), Ok(()));
    assert!(!core.is_done(MINE));
    assert_eq!(core.plan(), [Step::Stop(MINE)]);
    core.ended(MINE);
    let kept = core.unstored().expect("it is to be stored");
    core.stored(kept.clone());
    assert!(core.is_done(MINE));

    let mut core = host(kept, found(), pair(1, Serving, Serving));
    assert_eq!((core.plan(), state(&core)), (vec![], HostTargetState::Stopped));
    assert_eq!(core.want_removed(MINE), Err(HostError::Needed(CHAIN)), "mgmtd has not heard yet");
    core.adopt(pair(2, LastServing, Offline));
    assert_eq!(core.want_removed(MINE), Err(HostError::Needed(CHAIN)), "it has the latest");
    core.adopt(pair(3, Offline, Serving));
    assert_eq!(core.want_removed(MINE), Ok(()));
    assert_eq!(core.plan(), [Step::Clear(at(0))]);
    core.found(disks(&[0, 1], vec![]));
    assert_eq!((core.plan(), state(&core)), (vec![], HostTargetState::Removed));

    let make = |chain, disk| MakeTarget { target: MINE, chain: ChainId(chain), disk };
    assert_eq!(core.want_made(&make(4, None)), Err(HostError::OtherChain(CHAIN)));
    assert_eq!(core.want_made(&make(3, Some(5))), Err(HostError::NoSuchDisk(5)));
    assert_eq!(core.want_made(&make(3, Some(1))), Ok(()));
    assert_eq!(core.plan(), [Step::Begin(at(1), How::Make { again: true })]);
}

/// Goal: a host that knows nothing of its chains removes nothing. Regression (check `hosts`, seed
/// 1927): a host was asked for a removal in the moments after its start. Without a view no chain
/// names the target, so the host noted the wish, and removed what its chain waited for.
#[test]
fn without_a_view_nothing_is_removed() {
    let found = disks(&[0], vec![whole(0)]);
    let mut core = host(book(0, Wish::Run), found, ClusterView::default());
    let unknown = HostError::Unavailable("nothing is known of the cluster yet".into());
    assert_eq!(core.want_removed(MINE), Err(unknown.clone()));
    let make = MakeTarget { target: MINE, chain: ChainId(4), disk: Some(5) };
    assert_eq!(core.want_made(&make), Err(unknown), "nor is its disk or its chain a wrong one");
    assert_eq!(core.want_stopped(MINE), Ok(()), "a stop hurts nobody, and may be why it restarts");
    core.adopt(pair(1, LastServing, Offline));
    assert_eq!(core.want_removed(MINE), Err(HostError::Needed(CHAIN)));
    assert_eq!((core.plan(), state(&core)), (vec![], HostTargetState::Stopped));
}

/// Goal: a human may say where a target goes before a chain names it.
#[test]
fn a_place_is_kept_for_one_that_is_to_come() {
    let mut core = host(Book::new(), disks(&[0, 1], vec![]), view(1, vec![]));
    let m = MakeTarget { target: MINE, chain: CHAIN, disk: Some(1) };
    assert_eq!(core.want_made(&m), Ok(()));
    assert!(core.plan().is_empty() && matches!(state(&core), HostTargetState::Waits(_)));
    core.adopt(view(2, vec![target(11, 1, Serving, false), target(12, 2, Serving, false)]));
    assert_eq!(core.plan(), [Step::Begin(at(1), How::Make { again: false })]);
    core.found(disks(&[0, 1], vec![whole(1)]));
    let m = MakeTarget { disk: Some(0), ..m };
    assert_eq!(core.want_made(&m), Err(HostError::Elsewhere(1)));
}

fn any_state() -> impl Strategy<Value = TargetState> {
    prop::sample::select(vec![Serving, Syncing, Waiting, LastServing, Offline])
}

proptest! {
    /// Goal: whatever a host knows, it makes nothing where there is something, begins nothing that
    /// is not its own or that a human has stopped, and begins without the latest data only what
    /// another target that serves fills again.
    #[test]
    fn what_a_host_does_is_allowed(
        (mine, other, made) in (any_state(), any_state(), any::<bool>()),
        (node, in_book, wish) in (1u32..3, prop::option::of(0u16..3), 0usize..3),
        present in prop::collection::btree_set(0u16..3, 0..3),
        folders in prop::collection::vec((0u16..3, any::<bool>()), 0..3),
        old in any::<bool>(),
    ) {
        let wish = [Wish::Run, Wish::Stopped, Wish::Removed][wish];
        let listed = in_book.map_or_else(Book::new, |disk| book(disk, wish));
        let present: Vec<u16> = present.into_iter().collect();
        let folder = |(disk, finished): (u16, bool)| match finished {
            true => whole(disk),
            false => Folder { content: Content::Unfinished, ..whole(disk) },
        };
        let folders: Vec<Folder> = folders.into_iter().map(folder).collect();
        let there = folders.iter().filter(|f| present.contains(&f.disk.0)).cloned();
        let found = disks(&present, there.collect());
        let targets = vec![target(11, node, mine, made), target(12, 9, other, true)];
        let mut host = host(listed.clone(), found.clone(), view(1, targets));
        if old {
            host.is_old(MINE, Opening { number: 7, nonce: 1 });
        }
        let has_data = found.folders.iter().any(|f| f.content != Content::Unfinished);
        let filled = !made || (matches!(mine, Offline | Waiting) && other == Serving);
        let stays = listed.get(&MINE).is_some_and(|e| e.wish != Wish::Run);
        for step in host.plan() {
            match step {
                Step::Begin(place, how) => {
                    prop_assert!(node == ME.0 && !stays && place.target == MINE);
                    prop_assert!(present.contains(&place.disk.0));
                    let data = matches!(how, How::Open | How::Again { .. });
                    prop_assert_eq!(data, has_data);
                    prop_assert!(how == How::Open || filled);
                    prop_assert!(how != How::Open || !old);
                }
                Step::Clear(_) => prop_assert!(wish == Wish::Removed && in_book.is_some()),
                Step::Stop(_) => prop_assert!(false, "it does not run"),
            }
        }
    }
}
