//! The executor: one thread, tasks polled in seeded random order, each owned by a node's run.
//!
//! A crash takes every task of a run at once. Wakers are numbers behind an `Arc` (no pointer into
//! the tasks), so no cycle keeps a dropped task's memory.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use t3fs_runtime::shard::LocalTask;

use crate::rng::Rng;

/// Whose task or event this is: a node, and which of its runs. Node 0 is the harness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub node: u32,
    pub run: u32,
}

/// A task: its place, and how many tasks had that place before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskId {
    place: u32,
    generation: u32,
}

impl TaskId {
    pub(crate) fn word(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.generation)
    }
}

type Ready = Arc<Mutex<Vec<TaskId>>>;

struct Bell {
    task: TaskId,
    rung: AtomicBool,
    ready: Ready,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        // One thread: the atomics are only there because `Waker` must be `Send`.
        if !self.rung.swap(true, Ordering::Relaxed) {
            self.ready.lock().expect("nothing panics while it holds this").push(self.task);
        }
    }
}

struct Task {
    owner: Owner,
    /// Taken out while it is polled.
    work: Option<LocalTask>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Default)]
struct Slab {
    tasks: Vec<Option<Task>>,
    generations: Vec<u32>,
    /// Of the last task in a place, when nothing else holds it any more.
    bells: Vec<Option<(Arc<Bell>, Waker)>>,
    free: Vec<u32>,
}

pub(crate) struct Tasks {
    slab: RefCell<Slab>,
    ready: Ready,
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        Tasks { slab: RefCell::default(), ready: Arc::default() }
    }

    pub(crate) fn spawn(&self, owner: Owner, work: LocalTask) {
        let mut s = self.slab.borrow_mut();
        let place = s.free.pop().unwrap_or_else(|| {
            s.tasks.push(None);
            s.generations.push(0);
            s.bells.push(None);
            s.tasks.len() as u32 - 1
        });
        let task = TaskId { place, generation: s.generations[place as usize] };
        let (bell, waker) = s.bells[place as usize].take().unwrap_or_else(|| {
            let (rung, ready) = (AtomicBool::new(true), Arc::clone(&self.ready));
            let bell = Arc::new(Bell { task, rung, ready });
            let waker = Waker::from(Arc::clone(&bell));
            (bell, waker)
        });
        bell.rung.store(true, Ordering::Relaxed);
        s.tasks[place as usize] = Some(Task { owner, work: Some(work), bell, waker });
        self.ready.lock().expect("nothing panics while it holds this").push(task);
    }

    /// Takes a random one of the ready tasks, with its owner; `None` when none is ready.
    pub(crate) fn next_ready(&self, rng: &Rng) -> Option<(TaskId, Owner)> {
        let mut ready = self.ready.lock().expect("nothing panics while it holds this");
        let slab = self.slab.borrow();
        while !ready.is_empty() {
            let i = if ready.len() == 1 { 0 } else { rng.below(ready.len() as u64) as usize };
            let id = ready.swap_remove(i);
            if let Some(t) = slab.get(id) {
                return Some((id, t.owner));
            }
        }
        None
    }

    /// Puts a task that [`Tasks::next_ready`] gave back in line.
    pub(crate) fn requeue(&self, id: TaskId) {
        self.ready.lock().expect("nothing panics while it holds this").push(id);
    }

    pub(crate) fn poll(&self, id: TaskId) {
        let (mut work, waker) = {
            let mut s = self.slab.borrow_mut();
            let Some(t) = s.get_mut(id) else { return };
            t.bell.rung.store(false, Ordering::Relaxed);
            (t.work.take().expect("a task is not polled inside itself"), t.waker.clone())
        };
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        drop(waker);
        if done {
            // What it holds may call back into the world when it goes, and may hold its own waker.
            drop(work);
            let ended = self.slab.borrow_mut().remove(id);
            drop(ended);
            return;
        }
        let mut s = self.slab.borrow_mut();
        match s.get_mut(id) {
            Some(t) => t.work = Some(work),
            None => {
                drop(s);
                drop(work); // its own poll ended its run
            }
        }
    }

    /// Drops every task of a run, in order of place.
    pub(crate) fn end(&self, gone: impl Fn(Owner) -> bool) {
        let mut place = 0;
        loop {
            let mut s = self.slab.borrow_mut();
            if place as usize >= s.tasks.len() {
                return;
            }
            if let Some(t) = s.tasks[place as usize].as_mut().filter(|t| gone(t.owner)) {
                let (id, work) = (t.bell.task, t.work.take());
                drop(s);
                drop(work); // its destructors may spawn, wake and borrow
                let ended = self.slab.borrow_mut().remove(id);
                drop(ended);
            }
            place += 1;
        }
    }
}

impl Slab {
    fn get(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id.place as usize)?.as_ref().filter(|t| t.bell.task == id)
    }

    fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(id.place as usize)?.as_mut().filter(|t| t.bell.task == id)
    }

    /// Takes a task out of its place. Its bell serves the next task there if nobody can ring it.
    fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.get(id)?;
        let place = id.place as usize;
        let t = self.tasks[place].take()?;
        self.free.push(id.place);
        if Arc::strong_count(&t.bell) == 2 && !t.bell.rung.load(Ordering::Relaxed) {
            self.bells[place] = Some((t.bell, t.waker));
            return None;
        }
        self.generations[place] += 1;
        Some(t)
    }
}
