//! The core without a runtime: a primary in a few lines, and what agents tell it.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::store::{changes, from_rows};
use super::*;

const NODE_LEASE: Duration = Duration::from_millis(1500);
const SESSION_LEASE: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Time {
    Time::from_us(ms * 1000)
}

fn raw(node: u32, slot: u16, epoch: u32) -> RawAddr {
    RawAddr { node: NodeId(node), shard: 0, slot, epoch }
}

/// A primary whose writes succeed at once.
struct Primary {
    state: State,
    live: Live,
    number: u64,
    /// Its rows.
    stored: BTreeMap<Bytes, Vec<u8>>,
}

impl Primary {
    fn new() -> Primary {
        let state = State::new("t");
        let live = Live::new(NODE_LEASE, SESSION_LEASE, &state, at(0));
        let mut p = Primary { state, live, number: 0, stored: BTreeMap::new() };
        p.store(None);
        p
    }

    /// Another one takes over, with what is stored.
    fn succeeded(self, now: Time) -> Primary {
        let rows: Vec<_> = self.stored.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let state = from_rows(&rows).unwrap().unwrap();
        assert_eq!(state, self.state, "all of it is stored");
        let live = Live::new(NODE_LEASE, SESSION_LEASE, &state, now);
        Primary { state, live, number: self.number, stored: self.stored }
    }

    fn store(&mut self, before: Option<&State>) {
        let (set, cleared) = changes(before, &self.state);
        cleared.iter().for_each(|k| drop(self.stored.remove(k)));
        self.stored.extend(set);
    }

    fn change<T>(&mut self, now: Time, f: impl FnOnce(&mut State) -> T) -> T {
        let before = self.state.clone();
        let value = f(&mut self.state);
        if self.state.finish(&before) {
            self.store(Some(&before));
            self.live.adopt(&before, &self.state, now);
        }
        value
    }

    fn settle(&mut self, now: Time) {
        for _ in 0..10 {
            let (before, live) = (self.state.version, self.live.clone());
            self.change(now, |s| settle(s, &live, now));
            if self.state.version == before {
                return;
            }
        }
        panic!("it never settles");
    }

    fn chains(&mut self, n: u32) {
        let chain = |i: u32| (ChainId(i), (1..=3).map(move |k| (TargetId(i * 10 + k), NodeId(k))));
        let chains = (1..=n).map(chain).map(|(id, t)| (id, t.collect())).collect();
        self.change(at(0), |s| s.create_chains(&CreateChains { chains })).unwrap();
    }

    fn set_made(&mut self, target: u32, made: bool) {
        self.change(at(0), |s| {
            let chains = &mut Arc::make_mut(&mut s.routing).chains;
            let mut members = chains.iter_mut().flat_map(|c| &mut c.targets);
            members.find(|t| t.target == TargetId(target)).expect("a member").made = made;
        });
    }

    fn message(&mut self, node: u32, epoch: u32, actors: Option<Actors>) -> Heartbeat {
        self.number += 1;
        Heartbeat {
            cluster: "t".into(),
            term: 1,
            agent: raw(node, 0, epoch),
            number: self.number,
            have: ViewVersion(0),
            node: Some(NodeReport {
                identity: format!("of {node}"),
                roles: vec![Role::Storage],
                addresses: vec![format!("h{node}:1")],
                tags: Vec::new(),
                mgmtd: None,
                spaces: Vec::new(),
                actors,
            }),
            sessions: Vec::new(),
        }
    }

    fn hear(&mut self, m: &Heartbeat, now: Time) -> Result<(), MgmtdError> {
        self.live.hear(&self.state, m.clone(), now)
    }

    /// Node `node` reports the targets of so many chains in this state.
    fn beat(&mut self, node: u32, chains: u32, local: LocalState, now: Time) {
        let report = |c: u32| TargetReport {
            target: TargetId(c * 10 + node),
            addr: raw(node, c as u16, 1),
            local,
            chain_version: self.state.routing.chain(ChainId(c)).unwrap().version,
            used_bytes: 0,
        };
        let targets = (1..=chains).map(report).collect();
        let m = self.message(node, 1, Some(Actors { metas: Vec::new(), targets }));
        self.hear(&m, now).unwrap();
    }

    fn open(&mut self, node: u32, epoch: u32, nonce: u64, now: Time) -> Result<SessionId, String> {
        let open = OpenSession { label: "x".into(), nonce };
        let (m, live) = (OpenSessionFor { agent: raw(node, 0, epoch), open }, self.live.clone());
        self.change(now, |s| s.open_session(&m, &live))
    }

    fn states(&self) -> Vec<(u32, TargetState)> {
        self.state.routing.chains[0].targets.iter().map(|t| (t.target.0, t.state)).collect()
    }
}

use LocalState::{Online, UpToDate};
use TargetState::{LastServing, Offline, Serving, Syncing, Waiting};

/// Goal: the same request twice is one change; contradictions are refused.
#[test]
fn chains_are_made_once() {
    let mut p = Primary::new();
    p.chains(2);
    let v = p.state.version;
    p.chains(2);
    assert_eq!(p.state.version, v);
    p.chains(3);
    let versions: Vec<_> =
        p.state.routing.tables.iter().map(|t| (t.version, t.chains.len())).collect();
    assert_eq!(versions, [(1, 2), (2, 3)], "a table version never changes");
    let mut make = |id, t| {
        let m = CreateChains { chains: vec![(ChainId(id), vec![(TargetId(t), NodeId(1))])] };
        p.state.create_chains(&m).unwrap_err()
    };
    assert!(make(1, 99).contains("other targets"));
    assert!(make(9, 11).contains("in chain 1"));
}

/// Goal: a restarted node's addresses replace the old ones; what an earlier run sent late changes
/// nothing (regression, sim check chain seed 282), nor does what was sent twice.
#[test]
fn registration_replaces_addresses() {
    let mut p = Primary::new();
    p.chains(1);
    let targets = |epoch| vec![TargetReport::online(TargetId(11), raw(1, 2, epoch))];
    let metas = |epoch| vec![raw(1, 1, epoch)];
    let old = p.message(1, 5, Some(Actors { metas: metas(5), targets: targets(5) }));
    p.hear(&old, at(1)).unwrap();
    p.settle(at(1));
    let chain = |p: &Primary| p.state.routing.chains[0].targets[0].addr;
    assert_eq!(chain(&p), Some(raw(1, 2, 5)));
    let v = p.state.version;
    assert!(matches!(p.hear(&old, at(2)), Err(MgmtdError::Unavailable(_))), "sent twice");
    let new = p.message(1, 6, Some(Actors { metas: metas(6), targets: targets(6) }));
    p.hear(&new, at(3)).unwrap();
    p.settle(at(3));
    assert_eq!((chain(&p), &p.state.routing.metas), (Some(raw(1, 2, 6)), &metas(6)));
    assert!(p.state.version > v);
    let mut p = p.succeeded(at(10));
    assert!(matches!(p.hear(&old, at(11)), Err(MgmtdError::Refused(_))), "also by the next one");
    assert_eq!(chain(&p), Some(raw(1, 2, 6)));
}

/// Goal: silence of a whole lease takes a node out, and not a moment earlier; it comes back as a
/// target that syncs, and serves when it says that it has all.
#[test]
fn death_and_return() {
    let mut p = Primary::new();
    p.chains(1);
    (1..=3).for_each(|n| p.beat(n, 1, UpToDate, at(0)));
    p.settle(at(0));
    (2..=3).for_each(|n| p.beat(n, 1, UpToDate, at(1000)));
    p.settle(at(1500));
    assert_eq!(p.state.routing.chains[0].version, ChainVersion(1));
    p.settle(at(1501));
    assert_eq!(p.states(), [(12, Serving), (13, Serving), (11, Offline)]);
    assert_eq!(p.state.routing.node(NodeId(1)).unwrap().status, NodeStatus::Dead);
    // It says what it thought before it was dead: that counts for nothing now.
    let stale = TargetReport {
        chain_version: ChainVersion(1),
        local: UpToDate,
        ..TargetReport::online(TargetId(11), raw(1, 1, 1))
    };
    let m = p.message(1, 1, Some(Actors { metas: Vec::new(), targets: vec![stale] }));
    p.hear(&m, at(1600)).unwrap();
    p.settle(at(1600));
    assert_eq!(p.states(), [(12, Serving), (13, Serving), (11, Syncing)]);
    p.beat(1, 1, UpToDate, at(1700));
    p.settle(at(1700));
    assert_eq!(p.states(), [(12, Serving), (13, Serving), (11, Serving)]);
}

/// Goal: a change of primary, and a primary that could not act for a while, take nobody for dead.
#[test]
fn a_new_primary_waits_for_everyone() {
    let mut p = Primary::new();
    p.chains(1);
    (1..=3).for_each(|n| p.beat(n, 1, UpToDate, at(0)));
    p.settle(at(0));
    let routing = p.state.routing.clone();
    let mut p = p.succeeded(at(60_000));
    p.settle(at(61_500));
    assert_eq!(p.state.routing, routing);
    (1..=3).for_each(|n| p.beat(n, 1, UpToDate, at(61_000)));
    p.live.hear_all(at(90_000));
    p.settle(at(91_500));
    assert_eq!(p.state.routing, routing);
}

/// Goal: a node that is starting keeps its place for a lease, then others go on without it; a
/// chain that nobody else serves waits for it; a disk that is missing afterwards is out at once.
#[test]
fn starting_nodes() {
    let mut p = Primary::new();
    p.chains(1);
    (1..=3).for_each(|n| p.beat(n, 1, UpToDate, at(0)));
    p.settle(at(0));
    for n in 1..=3 {
        let m = p.message(n, 2, None);
        p.hear(&m, at(100)).unwrap();
    }
    p.settle(at(100));
    assert!(p.state.routing.chains[0].targets.iter().all(|t| t.addr.is_none()));
    for n in 1..=3 {
        let m = p.message(n, 2, None);
        p.hear(&m, at(1500)).unwrap();
    }
    p.settle(at(2000));
    assert_eq!(p.states(), [(11, Serving), (12, Serving), (13, Serving)], "all are starting");
    let up = |n: u32| vec![TargetReport::online(TargetId(10 + n), raw(n, 1, 2))];
    let m = p.message(2, 2, Some(Actors { metas: Vec::new(), targets: up(2) }));
    p.hear(&m, at(2001)).unwrap();
    p.settle(at(2001));
    assert_eq!(p.states(), [(12, Serving), (13, Offline), (11, Offline)]);
    let m = p.message(2, 2, Some(Actors { metas: Vec::new(), targets: Vec::new() }));
    p.hear(&m, at(2002)).unwrap();
    p.settle(at(2002));
    assert_eq!(p.states(), [(12, LastServing), (13, Offline), (11, Offline)]);
}

/// Regression (cuts): a node that died before its targets of a new chain were made held up all
/// writes to the chain for ten node leases. Goal: others go on after one; nobody is judged while
/// targets are being made.
#[test]
fn a_death_in_the_first_moment_of_a_chain() {
    let mut p = Primary::new();
    p.chains(1);
    let making = Some(Actors { metas: Vec::new(), targets: Vec::new() });
    for n in 1..=3 {
        let m = p.message(n, 1, making.clone());
        p.hear(&m, at(0)).unwrap();
    }
    p.settle(at(0));
    assert_eq!(p.states(), [(11, Serving), (12, Serving), (13, Serving)], "being made");
    for time in [1000, 2000] {
        p.beat(1, 1, UpToDate, at(time));
        let m = p.message(3, 1, making.clone());
        p.hear(&m, at(time)).unwrap();
        p.settle(at(time));
        assert_eq!(p.states(), [(11, Serving), (12, Serving), (13, Serving)], "being made");
    }
    [1, 3].into_iter().for_each(|n| p.beat(n, 1, UpToDate, at(2100)));
    p.settle(at(2100));
    assert_eq!(p.states(), [(11, Serving), (13, Serving), (12, Offline)]);
}

/// Goal: several that come back sync one after another.
#[test]
fn one_syncs_at_a_time() {
    let mut p = Primary::new();
    p.chains(1);
    (1..=3).for_each(|n| p.beat(n, 1, UpToDate, at(0)));
    p.settle(at(0));
    p.beat(1, 1, UpToDate, at(2000));
    p.settle(at(2000));
    (2..=3).for_each(|n| p.beat(n, 1, Online, at(2100)));
    p.settle(at(2100));
    assert_eq!(p.states().iter().filter(|t| t.1 == Syncing).count(), 1);
    assert_eq!(p.states()[2].1, Waiting);
    let syncs = p.states()[1].0 - 10;
    p.beat(syncs, 1, UpToDate, at(2200));
    p.settle(at(2200));
    assert_eq!(p.states().iter().map(|t| t.1).collect::<Vec<_>>(), [Serving, Serving, Syncing]);
}

/// Goal: a second server under a number is refused while the first lives, and takes its place when
/// that is dead; then the first is the second one. Regression (a newcomer): the later one pushed
/// the first out, which was refused for good.
#[test]
fn two_servers_under_one_number() {
    let mut p = Primary::new();
    let of = |identity: &str, mut m: Heartbeat| {
        m.node.as_mut().unwrap().identity = identity.into();
        m
    };
    let first = of("a", p.message(1, 5, None));
    p.hear(&first, at(0)).unwrap();
    p.settle(at(0));
    let second = of("b", p.message(1, 9, None));
    let refused = p.hear(&second, at(1000)).unwrap_err().to_string();
    assert!(refused.contains("another server, which lives at h1:1"), "{refused}");
    let first = of("a", p.message(1, 5, None));
    p.hear(&first, at(1100)).unwrap();
    // Another primary does not know who lives: whom it has stored does.
    let mut p = p.succeeded(at(1200));
    let second = of("b", p.message(1, 9, None));
    assert!(p.hear(&second, at(1300)).is_err());
    let first = of("a", p.message(1, 6, None));
    p.hear(&first, at(1400)).unwrap();
    p.settle(at(4000));
    let second = of("b", p.message(1, 10, None));
    p.hear(&second, at(4000)).unwrap();
    p.settle(at(4000));
    let first = of("a", p.message(1, 11, None));
    assert!(p.hear(&first, at(4100)).is_err(), "it has been replaced");
}

/// Goal: a target that has been there once is known to have been, also when its node comes without
/// it, and to another primary.
#[test]
fn what_was_made_stays_made() {
    let mut p = Primary::new();
    p.chains(1);
    let made = |p: &Primary| -> Vec<bool> {
        p.state.routing.chains[0].targets.iter().map(|t| t.made).collect()
    };
    assert_eq!(made(&p), [false; 3]);
    p.beat(1, 1, UpToDate, at(0));
    p.beat(2, 1, UpToDate, at(0));
    p.settle(at(0));
    assert_eq!(made(&p), [true, true, false]);
    let empty = Actors { metas: Vec::new(), targets: Vec::new() };
    let m = p.message(1, 9, Some(empty));
    p.hear(&m, at(10)).unwrap();
    p.settle(at(10));
    let p = p.succeeded(at(20));
    let one =
        |p: &Primary| p.state.routing.chains[0].targets.iter().find(|t| t.target.0 == 11).cloned();
    assert_eq!(one(&p).map(|t| (t.addr, t.made)), Some((None, true)));
}

/// Goal: sessions survive a change of primary with their ids, end when silent, and ids are never
/// reused.
#[test]
fn sessions_live_and_end() {
    let mut p = Primary::new();
    let a = p.open(9, 1, 1, at(0)).unwrap();
    assert_eq!(p.open(9, 1, 1, at(0)), Ok(a));
    let b = p.open(9, 1, 2, at(0)).unwrap();
    let mut p = p.succeeded(at(10));
    let alive = |p: &Primary, s| p.state.view().sessions.is_alive(s);
    assert!(alive(&p, a) && alive(&p, b));
    let mut m = p.message(9, 1, None);
    (m.node, m.sessions) = (None, vec![b]);
    p.hear(&m, at(50_000)).unwrap();
    p.settle(at(60_011));
    assert!(!alive(&p, a) && alive(&p, b));
    p.change(at(60_012), |s| Rc::make_mut(&mut s.sessions).remove(&b));
    assert!(!alive(&p, b));
    assert!(p.open(9, 1, 3, at(60_013)).unwrap() > b);
    assert!(alive(&p, SessionId(99)), "newer than this view knows");
}

/// Regression: a killed server that started again left its sessions alive for a session lease.
/// Goal: a later run of a server, heard of or opening a session, ends those of earlier runs, and
/// those alone; what an earlier run asks late is refused. Numbers of clients are drawn anew for
/// every run: a lower incarnation under one is another process, whose sessions go on.
#[test]
fn a_later_run_ends_the_sessions_of_earlier_ones() {
    let mut p = Primary::new();
    let server = p.message(1, 5, None);
    p.hear(&server, at(1)).unwrap();
    p.settle(at(1));
    let old = p.open(1, 5, 1, at(2)).unwrap();
    let other = p.open(2, 3, 2, at(2)).unwrap();
    let open = |p: &Primary| p.state.sessions.keys().copied().collect::<Vec<_>>();
    let server = p.message(1, 6, None);
    p.hear(&server, at(3)).unwrap();
    assert!(p.live.is_due(&p.state, at(3)));
    p.settle(at(3));
    assert_eq!(open(&p), [other]);
    assert!(p.open(1, 5, 3, at(4)).unwrap_err().contains("incarnation 6"), "it comes late");
    let new = p.open(1, 6, 4, at(4)).unwrap();
    assert!(new > old);
    // Another primary has heard of nobody yet.
    let mut p = p.succeeded(at(5));
    assert_eq!(p.open(1, 6, 4, at(5)), Ok(new));
    let newer = p.open(1, 7, 5, at(6)).unwrap();
    assert_eq!(open(&p), [other, newer]);
    // Processes of clients.
    let mut client = p.message(2, 8, None);
    client.node = None;
    p.hear(&client, at(7)).unwrap();
    let drew_the_same = p.open(2, 8, 6, at(8)).unwrap();
    p.settle(at(9));
    assert_eq!(open(&p), [other, newer, drew_the_same]);
}

/// Goal: how full targets are is told as their nodes last said it, of nodes that live, and changes
/// no routing.
#[test]
fn only_living_nodes_have_space() {
    let mut p = Primary::new();
    p.chains(1);
    let fill = |node: u32, used| {
        let space = TargetSpace { used, ..TargetSpace::default() };
        vec![TargetFill { target: TargetId(10 + node), space }]
    };
    let say = |p: &mut Primary, node: u32, used, now| {
        let targets = vec![TargetReport::online(TargetId(10 + node), raw(node, 1, 1))];
        let mut m = p.message(node, 1, Some(Actors { metas: Vec::new(), targets }));
        m.node.as_mut().unwrap().spaces = fill(node, used);
        p.hear(&m, now).unwrap();
    };
    say(&mut p, 1, 5, at(1));
    say(&mut p, 2, 6, at(1));
    p.settle(at(1));
    let version = p.state.version;
    say(&mut p, 1, 7, at(1000));
    p.settle(at(1000));
    assert_eq!(p.state.version, version);
    let told = |p: &Primary, now| -> Vec<(u32, u64)> {
        p.live.spaces(now).iter().map(|n| (n.node.0, n.targets[0].space.used)).collect()
    };
    assert_eq!(told(&p, at(1000)), [(1, 7), (2, 6)]);
    assert_eq!(told(&p, at(2000)), [(1, 7)], "node 2 is dead");
}

#[derive(Clone, Debug)]
enum Do {
    Beat(u32, u8),
    Restart(u32),
    Wait(u64),
    Open(u64),
    Close,
    Chains(u32),
    Succeed,
}

fn something() -> impl Strategy<Value = Do> {
    prop_oneof![
        8 => (1u32..=3, 0u8..3).prop_map(|(n, l)| Do::Beat(n, l)),
        1 => (1u32..=3).prop_map(Do::Restart),
        4 => (0u64..2500).prop_map(Do::Wait),
        1 => (0u64..9).prop_map(Do::Open),
        1 => Just(Do::Close),
        1 => (1u32..5).prop_map(Do::Chains),
        1 => Just(Do::Succeed),
    ]
}

proptest! {
    /// Goal: what an agent makes of updates is the view, whatever it had before and whoever is
    /// primary; every change is a new version; chains only change with their version; and the state
    /// comes back from its rows. Method: random histories, an agent for every version there was.
    #[test]
    fn updates_lead_to_the_view(steps in prop::collection::vec(something(), 1..40)) {
        let mut p = Primary::new();
        p.chains(2);
        let (mut now, mut chains, mut epochs) = (0, 2, [1u32; 4]);
        let mut past = vec![ClusterView::default()];
        for step in steps {
            let before = p.state.view();
            past.push(before.clone());
            match step {
                Do::Beat(n, l) => {
                    let local = [UpToDate, Online, LocalState::Offline][usize::from(l)];
                    let report = |c: u32| TargetReport {
                        local,
                        chain_version: p.state.routing.chain(ChainId(c)).unwrap().version,
                        ..TargetReport::online(
                            TargetId(c * 10 + n), raw(n, c as u16, epochs[n as usize]))
                    };
                    let targets = (1..=chains).map(report).collect();
                    let actors = Actors { metas: vec![raw(n, 9, epochs[n as usize])], targets };
                    let m = p.message(n, epochs[n as usize], Some(actors));
                    p.hear(&m, at(now)).unwrap();
                }
                Do::Restart(n) => {
                    epochs[n as usize] += 1;
                    let m = p.message(n, epochs[n as usize], None);
                    p.hear(&m, at(now)).unwrap();
                }
                Do::Wait(ms) => now += ms,
                Do::Open(nonce) => {
                    let node = nonce as u32 % 3 + 1;
                    p.open(node, epochs[node as usize], nonce, at(now)).unwrap();
                }
                Do::Close => {
                    p.change(at(now), |s| Rc::make_mut(&mut s.sessions).pop_first());
                }
                Do::Chains(n) => {
                    chains = chains.max(n);
                    p.chains(chains);
                }
                Do::Succeed => p = p.succeeded(at(now)),
            }
            let live = p.live.clone();
            p.change(at(now), |s| settle(s, &live, at(now)));
            let view = p.state.view();
            prop_assert!(view == before || view.version > before.version);
            for c in &view.routing.chains {
                let states = |c: &Chain| -> Vec<_> {
                    c.targets.iter().map(|t| (t.target, t.state)).collect()
                };
                if let Some(old) = before.routing.chain(c.id) {
                    let changed = states(old) != states(c);
                    prop_assert_eq!(c.version.0, old.version.0 + u32::from(changed));
                }
                let serving = c.targets.iter().any(|t| matches!(t.state, Serving | LastServing));
                prop_assert!(serving, "{c:?}");
            }
            for old in &past {
                let mut copy = old.clone();
                if let Some(update) = p.live.update(&p.state, old.version) {
                    prop_assert!(copy.apply(update.clone()));
                    prop_assert!(!copy.apply(update), "a second time it is not newer");
                }
                prop_assert_eq!(&copy, &view);
            }
        }
    }
}

/// Goal: data that is not the latest is told from data that is, also by the next primary, however
/// often it asks.
#[test]
fn an_old_copy_of_a_target_is_known() {
    let mut p = Primary::new();
    p.chains(1);
    let opening = |number, nonce| Opening { number, nonce };
    let claim = |p: &mut Primary, target, opening, confirmed, tried: &[Opening]| {
        let (target, tried) = (TargetId(target), tried.to_vec());
        let claims = vec![TargetClaim { target, opening, confirmed, tried }];
        p.change(at(0), |s| s.claim(&ClaimTargets { claims })).remove(0)
    };
    let (none, first) = (Opening::default(), opening(1, 7));
    assert_eq!(claim(&mut p, 11, first, none, &[]), Claimed::Latest);
    assert_eq!(claim(&mut p, 11, first, none, &[]), Claimed::Latest, "asked again");
    let old = Claimed::OldCopy { latest: first };
    assert_eq!(claim(&mut p, 11, opening(1, 8), none, &[]), old, "made anew");
    // The answer to the second did not come: the third knows of it.
    let (second, third) = (opening(2, 1), opening(3, 2));
    assert_eq!(claim(&mut p, 11, second, first, &[]), Claimed::Latest);
    assert_eq!(claim(&mut p, 11, third, first, &[second]), Claimed::Latest);
    let mut p = p.succeeded(at(1));
    // Regression (check `members`, seed 277): an old copy that had asked once, and was opened once
    // more, had a higher number than the latest.
    let (again, more) = (opening(2, 5), opening(4, 6));
    let old = Claimed::OldCopy { latest: third };
    assert_eq!(claim(&mut p, 11, again, first, &[]), old);
    assert_eq!(claim(&mut p, 11, more, first, &[second, again]), old);
    // What began under a primary of an earlier build.
    assert_eq!(claim(&mut p, 11, opening(9, 9), opening(8, 8), &[]), Claimed::Latest);
    assert_eq!(claim(&mut p, 12, first, none, &[]), Claimed::Latest, "a target of its own");
    let before = p.state.version;
    assert_eq!(claim(&mut p, 99, first, none, &[]), Claimed::Latest, "no chain names it");
    assert_eq!(p.state.version, before, "nothing is kept of it");
}

/// Goal: what another store's targets hold is known for that: it has begun, and this store's target
/// never has. Regression (a newcomer): mgmtd led over an empty store, and new chains took over the
/// folders of old targets with the same numbers.
#[test]
fn data_of_another_store_is_known() {
    let mut p = Primary::new();
    p.chains(1);
    let claim = |p: &mut Primary, number, confirmed| {
        let opening = |number| Opening { number, nonce: number };
        let (opening, confirmed) = (opening(number), opening(confirmed));
        let claims = vec![TargetClaim { target: TargetId(11), opening, confirmed, tried: vec![] }];
        p.change(at(0), |s| s.claim(&ClaimTargets { claims })).remove(0)
    };
    let other = Claimed::OldCopy { latest: Opening::default() };
    p.set_made(11, false);
    for number in [5, 6] {
        assert_eq!(claim(&mut p, number, 4), other);
    }
    assert!(p.state.openings.is_empty(), "nothing is kept of it");
    // It was made under a build that stored no openings.
    p.set_made(11, true);
    assert_eq!(claim(&mut p, 7, 4), Claimed::Latest);
    // Its node has made it just now, and was not heard of since its claim.
    p.set_made(11, false);
    assert_eq!(claim(&mut p, 8, 7), Claimed::Latest);
}
