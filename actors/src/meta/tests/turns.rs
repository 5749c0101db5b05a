//! Several sessions at the end of one file.

use super::posix::{nothing, report, set_length};
use super::*;

/// One file, and sessions that append to it and cut it.
struct Tail {
    w: World,
    inode: InodeId,
}

impl Tail {
    async fn new(w: World) -> Tail {
        let inode = w.file(ROOT, "f").await.unwrap().inode;
        Tail { w, inode }
    }

    fn op(&self, session: u64) -> RequestId {
        RequestId { session: SessionId(session), ..self.w.op() }
    }

    fn append(&self, len: u64, op: RequestId) -> Append {
        let holder = SessionId(0);
        Append { inode: self.inode, len, end: 0, truncations: 0, holder, op, instead_of: None }
    }

    /// Where it goes; `None`: it has to wait.
    async fn ask(&self, m: Append) -> Option<u64> {
        match self.w.ask(m).await.unwrap() {
            Appended::At { offset, .. } => Some(offset),
            Appended::Waits => None,
            Appended::Stale(attr) => panic!("stale: {attr:?}"),
        }
    }

    /// Whether the turn is over, and what was stored is part of the file.
    async fn done(&self, op: RequestId, end: u64) -> bool {
        let truncations = self.w.attr(self.inode).await.unwrap().truncations;
        let turn = Some(EndTurn { op, end });
        let m = ReportWrite { turn, ..report(self.inode, 0, truncations) };
        match self.w.ask(m).await.unwrap() {
            Reported::Taken(_) => true,
            Reported::Waits => false,
            Reported::Stale(_) | Reported::Passed(_) => panic!("not taken"),
        }
    }

    async fn begin_cut(&self, op: RequestId) -> bool {
        self.w.ask(BeginCut { inode: self.inode, op }).await.unwrap()
    }

    async fn cut(&self, turn: Option<RequestId>) -> Result<Changed, MetaError> {
        let seen = SeenContent::of(&self.w.attr(self.inode).await.unwrap());
        let mut m = set_length(self.inode, 0, seen, self.w.op());
        m.length.as_mut().unwrap().turn = turn;
        self.w.ask(m).await
    }

    async fn length(&self) -> u64 {
        self.w.attr(self.inode).await.unwrap().length
    }
}

/// Goal: appends never overlap, a retry appends nothing, and nobody sees a place that is not
/// filled. Regression (two-mounts, copytruncate): a reader found zeros where an append was on its
/// way.
#[test]
fn appends_are_part_of_the_file_when_they_are_stored() {
    in_world(async |w| {
        let t = Tail::new(w).await;
        let (first, second) = (t.op(1), t.op(2));
        assert_eq!(t.ask(t.append(10, first)).await, Some(0));
        assert_eq!(t.ask(t.append(5, second)).await, Some(10));
        assert_eq!(t.ask(t.append(10, first)).await, Some(0), "the retry of the first");
        assert!(!t.done(second, 15).await && !t.done(second, 15).await);
        assert_eq!(t.length().await, 0);
        assert!(t.done(first, 10).await);
        assert_eq!(t.length().await, 15);
        assert!(t.done(second, 15).await, "also when it is asked again");
        // A duplicate of the first that the network delivers late takes no turn.
        assert_eq!(t.w.ask(t.append(10, first)).await, Err(MetaError::Stale));
        // What the sender has written itself and not reported is before its append.
        let m = Append { end: 100, ..t.append(1, t.op(1)) };
        assert_eq!(t.ask(m).await, Some(100));
        assert!(t.done(m.op, 101).await);
        assert_eq!(t.length().await, 101);
        t.w.check().await;
    });
}

/// Goal: what is no append is refused, and writing takes the identity that a program has.
#[test]
fn an_append_is_a_write() {
    in_world(async |w| {
        let t = Tail::new(w).await;
        t.w.ask(SetAttr { mode: Some(0o6755), ..nothing(t.inode, t.w.op()) }).await.unwrap();
        let op = t.op(1);
        t.ask(t.append(3, op)).await;
        let turn = Some(EndTurn { op, end: 3 });
        let end = ReportWrite { turn, clear_suid: true, ..report(t.inode, 0, 0) };
        t.w.ask(end).await.unwrap();
        assert_eq!(t.w.attr(t.inode).await.unwrap().mode, 0o755);
        let huge = t.w.ask(t.append(1 << 62, t.op(1))).await;
        assert_eq!(huge, Err(MetaError::FileTooLarge));
        let dir = t.w.ask(Append { inode: ROOT, ..t.append(1, t.op(1)) }).await;
        assert_eq!(dir, Err(MetaError::IsDirectory));
        t.w.check().await;
    });
}

/// Goal: a cut waits for appends that have their place, and those that come wait for the cut.
/// Regression (review): a cut came between, the place was given to another, and the bytes of the
/// first overwrote those of the second.
#[test]
fn cuts_and_appends_go_in_turn() {
    in_world(async |w| {
        let t = Tail::new(w).await;
        let (append, cut, late) = (t.op(1), t.op(2), t.op(3));
        assert_eq!(t.ask(t.append(10, append)).await, Some(0));
        assert_eq!(t.cut(None).await, Err(MetaError::Changed));
        assert!(!t.begin_cut(cut).await);
        assert_eq!(t.ask(t.append(7, late)).await, None);
        assert!(t.done(append, 10).await);
        assert_eq!(t.length().await, 10);
        assert!(t.begin_cut(cut).await && t.begin_cut(cut).await);
        assert_eq!(t.cut(None).await, Err(MetaError::Changed), "of somebody else");
        let attr = t.cut(Some(cut)).await.unwrap().attr;
        assert_eq!((attr.length, attr.truncations), (0, 1));
        assert_eq!(t.ask(t.append(7, late)).await, Some(0));
        assert!(t.done(late, 7).await);
        // One that is given up keeps nobody.
        let given_up = t.op(2);
        assert!(t.begin_cut(given_up).await);
        assert!(t.done(given_up, 0).await);
        assert!(t.cut(None).await.is_ok());
        t.w.check().await;
    });
}

/// Goal: sessions that end keep nobody waiting once nothing of them reaches storage any more, and
/// are told so if they come back. Regression (issue 10, seeds 54360 and 54404): what one had still
/// on its way lay over what others appended, and its report of that was taken.
#[test]
fn the_dead_are_passed_over() {
    in_world(async |w| {
        let t = Tail::new(w).await;
        let living = async |sessions: &[u64]| {
            {
                let mut view = t.w.beside.view.borrow_mut();
                view.version.0 += 1;
                let alive: Vec<_> = sessions.iter().copied().map(SessionId).collect();
                view.sessions = super::living(&alive);
            }
            t.w.ask(ListKeepers).await.unwrap(); // takes a fresh view
        };
        living(&[1, 3, 4]).await;
        let (dead, alive, cut) = (t.op(3), t.op(1), t.op(4));
        assert_eq!(t.ask(t.append(10, dead)).await, Some(0));
        assert_eq!(t.ask(t.append(5, alive)).await, Some(10));
        assert!(!t.done(alive, 15).await && !t.begin_cut(cut).await);
        living(&[1]).await;
        assert!(!t.done(alive, 15).await, "a target may not know yet");
        while !t.done(alive, 15).await {
            t.w.cx.sleep(NODE_LEASE / 4).await;
        }
        let attr = t.w.attr(t.inode).await.unwrap();
        assert_eq!((attr.length, attr.sparse), (15, true));
        for attempt in 0..2 {
            let turn = Some(EndTurn { op: dead, end: 100 });
            let m = ReportWrite { turn, ..report(t.inode, 0, 0) };
            let told = t.w.ask(m).await.unwrap();
            assert!(matches!(told, Reported::Passed(_)), "{attempt}: {told:?}");
        }
        assert_eq!(t.length().await, 15);
        assert!(t.cut(None).await.is_ok());
        t.w.check().await;
    });
}

/// Goal: appends wait for whoever may have appended without telling, also when it has ended.
#[test]
fn appends_wait_for_what_others_have_kept() {
    in_world(async |w| {
        let t = Tail::new(w).await;
        let hold = |session, write| {
            let (inode, op) = (t.inode, t.w.op());
            OpenFile { inode, hold: Some(SessionId(session)), write, op }
        };
        t.w.ask(hold(1, true)).await.unwrap();
        t.w.ask(hold(2, false)).await.unwrap();
        assert_eq!(t.ask(t.append(5, t.op(1))).await, Some(0), "its own, and a reader's");
        t.w.ask(hold(2, true)).await.unwrap();
        assert_eq!(t.ask(t.append(5, t.op(1))).await, None);
        let session = SessionId(2);
        let share = ShareOpens { session, holds: Vec::new(), all: true, op: t.w.op() };
        t.w.ask(share).await.unwrap();
        assert_eq!(t.ask(t.append(5, t.op(1))).await, Some(0));
        // One that has ended has left what it wrote to whoever clears its hold.
        t.w.ask(hold(7, true)).await.unwrap();
        assert_eq!(t.ask(t.append(5, t.op(1))).await, None);
        t.w.check().await;
    });
}
