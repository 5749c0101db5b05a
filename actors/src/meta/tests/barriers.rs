//! Stamps, and barriers that name them.

use super::*;

async fn sync(w: &World, stamp: Stamp) -> Result<(), MetaError> {
    w.ask(SyncMeta { stamp }).await
}

/// Makes a file and loses it in a power failure, after one that stays; the world after, which is
/// behind `next`, and both stamps.
async fn crashed(w: World, next: Cx) -> (World, Stamp, Stamp) {
    let made = async |name| {
        let (entry, kind) = (w.entry(ROOT, name), FileType::File);
        w.ask(CreateFile { entry, kind, hold: None }).await.unwrap().stamp
    };
    let kept = made("kept").await;
    sync(&w, kept).await.unwrap();
    w.disk.hold_syncs(true);
    let lost = made("lost").await;
    assert!(lost > kept);
    w.disk.crash();
    w.disk.hold_syncs(false);
    let next = World::start_on(next, w.disk.clone(), Rc::clone(&w.beside)).await;
    next.seq.set(w.seq.get());
    (next, kept, lost)
}

/// Goal: nobody is promised what a crash has taken. Regression (issue 10): a barrier named no
/// version, so an fsync after the loss of the last 50 ms returned 0.
#[test]
fn a_barrier_fails_for_what_was_lost() {
    in_world(async |w| {
        let next = w.cx.clone();
        let (w, kept, lost) = crashed(w, next).await;
        assert_eq!(sync(&w, lost).await, Err(MetaError::Lost));
        assert_eq!(sync(&w, kept).await, Ok(()));
        assert_eq!(sync(&w, Stamp(0)).await, Ok(()));
        let beside = Rc::clone(&w.beside);
        let next = World::start_on(w.cx.clone(), w.disk.clone(), beside).await;
        assert_eq!(sync(&next, lost).await, Err(MetaError::Lost));
        assert_eq!(sync(&next, kept).await, Ok(()));
    });
}

/// Goal: the mistakes that checks plant do what they say.
#[test]
fn planted_barriers_lie() {
    in_world(async |w| {
        let forgetful = worlds::with(PlantedBug::BarrierForgetsVersion, &w.cx);
        let (w, _, lost) = crashed(w, forgetful).await;
        assert_eq!(sync(&w, lost).await, Ok(()));
        let hasty = worlds::with(PlantedBug::BarrierAnswersAtOnce, &w.cx);
        let next = World::start_on(hasty, w.disk.clone(), Rc::clone(&w.beside)).await;
        next.seq.set(w.seq.get());
        // The first number waits for the disk, whatever the barrier does.
        next.file(ROOT, "first").await.unwrap();
        next.disk.hold_syncs(true);
        next.file(ROOT, "unsynced").await.unwrap();
        assert_eq!(sync(&next, Stamp(0)).await, Ok(()));
    });
}

/// Goal: every answer to a change can be named to a barrier, also one that was kept, and one that
/// changed nothing.
#[test]
fn every_change_has_a_stamp() {
    in_world(async |w| {
        let create = CreateFile { entry: w.entry(ROOT, "f"), kind: FileType::File, hold: None };
        let made = w.ask(create.clone()).await.unwrap();
        let unlinked = w.unlink(ROOT, "f").await.unwrap();
        assert!(made.stamp > Stamp(0) && unlinked.stamp > made.stamp);
        assert_eq!(made.attr.as_of, made.stamp);
        let again = w.ask(create).await.unwrap();
        assert!(again.stamp >= unlinked.stamp);
        assert_eq!(again.attr.as_of, Stamp::default(), "it is an old answer");
        assert_eq!(undated(again.attr), undated(made.attr));
        let inode = w.file(ROOT, "g").await.unwrap().inode;
        let nothing = ReportWrite { durable: true, ..super::posix::report(inode, 0, 0) };
        let Ok(Reported::Taken(taken)) = w.ask(nothing.clone()).await else { panic!() };
        assert!(taken.stamp > unlinked.stamp);
        let Ok(Reported::Taken(again)) = w.ask(nothing).await else { panic!() };
        assert_eq!(again, taken, "a report of nothing writes nothing");
        assert_eq!(sync(&w, taken.stamp).await, Ok(()));
    });
}
