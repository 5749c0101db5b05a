//! The core without a runtime: answers of mgmtds from hand to hand.

use crate::proto::mgmtd::Mgmtd;
use std::sync::Arc;
use t3fs_runtime::NodeId;

use super::*;

fn raw(node: u32, slot: u16) -> RawAddr {
    RawAddr { node: NodeId(node), shard: 0, slot, epoch: 1 }
}

fn mgmtd(node: u32) -> Addr<Mgmtd> {
    Addr::from_raw(raw(node, 0))
}

fn at(ms: u64) -> Time {
    Time::from_us(ms * 1000)
}

fn server() -> Core {
    let server = Some(ServerInfo::default());
    Core::new(AgentConfig { server, ..AgentConfig::new("t", vec![mgmtd(1), mgmtd(2), mgmtd(3)]) })
}

fn reply(term: u64, news: Option<ViewUpdate>) -> HeartbeatReply {
    HeartbeatReply { term, lease_us: 1_500_000, news, ended: Vec::new() }
}

fn full(version: u64) -> Option<ViewUpdate> {
    let version = ViewVersion(version);
    Some(ViewUpdate::Full(ClusterView { version, ..ClusterView::default() }))
}

fn asked(c: &mut Core) -> Vec<Addr<Mgmtd>> {
    c.heartbeats(at(0)).into_iter().map(|(to, _)| to).collect()
}

/// Goal: all are tried until one leads; one that is silent or leads no more is left, after a
/// hint to whom it names.
#[test]
fn it_finds_the_primary() {
    let mut c = server();
    assert_eq!(asked(&mut c), [mgmtd(1), mgmtd(2), mgmtd(3)]);
    assert_eq!(asked(&mut c), [], "nobody is asked twice while nobody leads");
    let other = MgmtdError::NotPrimary { hint: Some(NodeId(2)) };
    assert_eq!(c.refused(mgmtd(1), other.clone(), at(0)), AskAgain::Wait);
    assert_eq!(c.refused(mgmtd(2), MgmtdError::OtherTerm { term: 7 }, at(0)), AskAgain::Now);
    assert_eq!(asked(&mut c), [mgmtd(2)]);
    c.answered(mgmtd(2), reply(7, full(1)), &[], at(0));
    assert_eq!((c.primary(), c.term), (Some(mgmtd(2)), 7));
    // A late answer of an earlier primary changes nothing.
    c.answered(mgmtd(1), reply(6, None), &[], at(0));
    assert_eq!(c.primary(), Some(mgmtd(2)));
    let gone = MgmtdError::NotPrimary { hint: Some(NodeId(3)) };
    assert_eq!(c.refused(mgmtd(2), gone, at(0)), AskAgain::Now);
    assert_eq!(c.primary(), Some(mgmtd(3)));
    assert_eq!(c.unanswered(mgmtd(3)), AskAgain::Now);
    assert_eq!(c.primary(), None);
}

/// Regression: a process that is refused with changing words filled its log, a line a second.
#[test]
fn a_refusal_is_said_once_in_a_while() {
    let mut c = server();
    let mut said = |ms, why: &str| {
        let before = c.refusal_said;
        c.refused(mgmtd(1), MgmtdError::Refused(why.into()), at(ms));
        c.refusal_said != before
    };
    assert!(said(1, "another server lives"));
    assert!(!said(1001, "another server lives") && !said(2001, "a later one is known"));
    assert!(said(60_001, "another server lives"));
}

/// Regression: an answer to a question that the agent passed on counted as one to a heartbeat, so
/// more heartbeats were under way to one mgmtd than may be.
#[test]
fn a_question_is_no_heartbeat() {
    let mut c = server();
    asked(&mut c);
    assert_eq!(c.does_not_lead(mgmtd(1), None), AskAgain::Wait);
    assert_eq!(asked(&mut c), [], "all are asked already");
    c.answered(mgmtd(2), reply(7, full(1)), &[], at(0));
    assert_eq!(c.does_not_lead(mgmtd(2), Some(NodeId(2))), AskAgain::Now);
    assert_eq!((c.primary(), asked(&mut c)), (None, vec![mgmtd(2)]), "its answer is here");
}

/// Goal: a lease is counted from the sending, for the targets that were named as alive, and
/// never without the view that came with it.
#[test]
fn leases() {
    let mut c = server();
    c.report(TargetReport::online(TargetId(1), raw(9, 1)));
    let (_, early) = c.heartbeats(at(0)).remove(0);
    assert_eq!(named(&early), [], "it is not announced yet");
    let away =
        TargetReport { local: LocalState::Offline, ..TargetReport::online(TargetId(2), raw(9, 2)) };
    c.announce(Announce { metas: Vec::new(), targets: vec![away] });
    let message = c.message();
    assert_eq!(message.node.as_ref().unwrap().actors.as_ref().unwrap().targets.len(), 2);
    let alive = named(&message);
    assert_eq!(alive, [TargetId(1)]);
    let took = c.answered(mgmtd(1), reply(1, full(5)), &alive, at(100));
    assert_eq!((took.view, took.lease, &took.named), (true, Some(at(1100)), &alive));
    let (from, version) = (ViewVersion(7), ViewVersion(8));
    let gap = ViewDelta { from, version, routing: None, sessions: None };
    let update = Some(ViewUpdate::Delta(gap.clone()));
    assert_eq!(c.answered(mgmtd(1), reply(1, update), &alive, at(300)), Took::default());
    // What a push has brought before is no gap.
    c.take(full(9).unwrap());
    let update = Some(ViewUpdate::Delta(gap));
    let took = c.answered(mgmtd(1), reply(1, update), &alive, at(400));
    assert_eq!((took.view, took.lease), (false, Some(at(1400))));
    let took = c.answered(mgmtd(1), reply(1, None), &alive, at(200));
    assert_eq!(took.lease, Some(at(1400)), "an answer that comes late shortens nothing");
}

/// Regression: an agent that was told a longer lease than mgmtd served on after mgmtd had given
/// its chains to others. Method: grants shorter and longer than the agent's own length.
#[test]
fn the_shorter_lease_counts() {
    let granted = |ms: u64| HeartbeatReply { lease_us: ms * 1000, ..reply(1, None) };
    let mut c = server();
    let took = c.answered(mgmtd(1), granted(600), &[TargetId(1)], at(0));
    assert_eq!(took.lease, Some(at(400)));
    let took = c.answered(mgmtd(1), granted(10_000), &[TargetId(1)], at(100));
    assert_eq!(took.lease, Some(at(1100)));
}

/// Goal: a session is extended while its client says that it lives, and its end is told.
#[test]
fn sessions() {
    let mut c = server();
    let id = SessionId(4);
    assert!(c.extend(id, at(0)));
    assert_eq!(c.message().sessions, [id]);
    let ended = HeartbeatReply { ended: vec![id], ..reply(1, None) };
    c.answered(mgmtd(1), ended, &[], at(10));
    assert!(!c.extend(id, at(20)));
    assert_eq!(c.message().sessions, []);
    assert!(c.extend(SessionId(5), at(20)));
    c.heartbeats(at(40_000));
    assert_eq!(c.message().sessions, [], "its client was silent");
}

/// Goal: news are what the asker does not have: a newer view, or another list of sessions,
/// whichever way the list has changed. A view that lacks a session ends it.
#[test]
fn news_are_told_once() {
    let mut c = server();
    let mut seen = WatchView { have: ViewVersion(0), own_number: 0 };
    assert!(!c.has_news(&seen), "nothing is known, nothing is open");
    let mut told = |c: &Core| {
        assert!(c.has_news(&seen));
        let news = c.news(&seen);
        seen.have = news.view.as_ref().map_or(seen.have, |v| v.version);
        seen.own_number = news.own_number;
        assert!(!c.has_news(&seen));
        (news.view.map(|v| v.version.0), news.own)
    };
    let [a, b, d, e] = [4, 5, 6, 7].map(SessionId);
    c.take(full(3).unwrap());
    assert_eq!(told(&c), (Some(3), vec![]));
    c.extend(a, at(0));
    c.extend(b, at(0));
    c.extend(b, at(1));
    assert_eq!(told(&c), (None, vec![a, b]));
    c.forget(a);
    assert_eq!(told(&c), (None, vec![b]));
    c.answered(mgmtd(1), HeartbeatReply { ended: vec![b], ..reply(1, None) }, &[], at(10));
    assert_eq!(told(&c), (None, vec![]));
    c.extend(d, at(20));
    c.extend(e, at(20));
    assert_eq!(told(&c), (None, vec![d, e]));
    let sessions = Arc::new(Sessions { alive: vec![e], max: e });
    let version = ViewVersion(4);
    c.take(ViewUpdate::Full(ClusterView { version, sessions, ..ClusterView::default() }));
    assert_eq!(told(&c), (Some(4), vec![e]));
    assert!(!c.extend(d, at(30)), "it has ended");
    c.heartbeats(at(60_000));
    assert_eq!(told(&c), (None, vec![]), "its client was silent");
    assert!(!c.extend(d, at(60_000)), "and did not come back");
    assert!(!c.has_news(&seen));
}
