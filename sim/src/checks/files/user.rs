//! What clients do: each runs one or two users, who draw operations on a few names and tell the
//! judge what they asked and what they heard.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use t3fs_actors::client::FsError;
use t3fs_actors::proto::ids::InodeId;
use t3fs_actors::proto::meta::{Attr, ROOT};
use t3fs_runtime::Cx;

use super::door::{Door, Handle, Mount, failure};
use super::options::{Kind, Options};
use crate::oracles::files::{Act, Entry, Files, HandleNo, Life, Move, Name, Told};
use crate::rng::Rng;
use crate::trace::digest;
use crate::world::Sim;

/// Most descriptors that one user has.
const OPEN_MAX: usize = 4;

/// What all users of a run share.
pub(super) struct Stage {
    pub(super) options: Options,
    pub(super) files: RefCell<Files>,
    /// The second directory, once users may begin.
    pub(super) dir: Cell<Option<InodeId>>,
    /// The storm is over.
    pub(super) calm: Cell<bool>,
    /// Of each client: operations left to begin.
    left: Vec<Cell<u32>>,
    /// Users of clients that have got done.
    done: RefCell<std::collections::BTreeSet<(u32, u32)>>,
}

impl Stage {
    pub(super) fn new(options: Options) -> Stage {
        let left = (0..options.clients).map(|_| Cell::new(options.ops)).collect();
        Stage {
            files: RefCell::new(Files::new(options.excuses())),
            options,
            dir: Cell::new(None),
            calm: Cell::new(false),
            left,
            done: RefCell::default(),
        }
    }

    pub(super) fn finished(&self) -> bool {
        self.done.borrow().len() == (self.options.clients * self.options.users) as usize
    }

    /// What has begun and not ended.
    pub(super) fn waiting(&self) -> String {
        self.files.borrow().waiting().join("\n")
    }

    /// A user of a client has done all that it was to do.
    pub(super) fn got_done(&self, client: u32, number: u32) {
        self.done.borrow_mut().insert((client, number));
    }

    fn take(&self, client: u32) -> bool {
        let left = &self.left[client as usize];
        let some = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        some
    }
}

#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) handle: Handle,
    number: HandleNo,
    append: bool,
}

/// Somebody who uses files; also whoever looks at the end.
pub(super) struct User {
    pub(super) stage: Rc<Stage>,
    door: Door,
    pub(super) cx: Cx,
    pub(super) sim: Sim,
    pub(super) rng: Rng,
    life: Life,
    pub(super) client: u32,
    /// How long an operation may take.
    pub(super) due: Option<Duration>,
    pub(super) open: Vec<Open>,
}

impl User {
    /// User `number` of a client that has come `life`th.
    pub(super) fn new(
        stage: &Rc<Stage>,
        door: &Door,
        (cx, sim): (&Cx, &Sim),
        life: Life,
        (client, number): (u32, u32),
    ) -> User {
        User {
            stage: Rc::clone(stage),
            door: door.clone(),
            cx: cx.clone(),
            rng: sim.rng(1000 + u64::from(life) * 8 + u64::from(number)),
            sim: sim.clone(),
            life,
            client,
            due: stage.options.due(),
            open: Vec::new(),
        }
    }

    /// One who looks from outside of the storm.
    pub(super) async fn outside(stage: Rc<Stage>, cx: Cx, sim: Sim) -> User {
        // A chain may never serve again where disks rot.
        let patience = stage.options.bad_disks().then_some(Duration::from_secs(20));
        let door = Door::open(&cx, Mount { buffer: 1 << 20, patience, ..Mount::default() }).await;
        let life = stage.files.borrow_mut().life();
        let rng = sim.rng(999);
        User { stage, door, cx, sim, rng, life, client: 0, due: None, open: Vec::new() }
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    fn dir(&self, dir: u8) -> InodeId {
        if dir == 0 { ROOT } else { self.stage.dir.get().unwrap_or(ROOT) }
    }

    /// Does something, and tells the judge before and after.
    async fn tell<T>(
        &self,
        act: Act,
        work: impl Future<Output = Result<T, FsError>>,
        told: impl FnOnce(&T) -> Told,
    ) -> Result<T, FsError> {
        let text = format!("{act:?}");
        let now = self.sim.now_us();
        let due = self.due.map(|d| now + d.as_micros() as u64);
        let op = self.stage.files.borrow_mut().begin(now, self.life, act, due);
        self.note(format_args!("begins {text}"));
        let got = work.await;
        let told = match &got {
            Ok(value) => told(value),
            Err(e) => Told::Failed(failure(e.clone())),
        };
        match &told {
            Told::Bytes(b) => {
                let sum = digest(b);
                self.note(format_args!("ends {text}: {} bytes, digest {sum:016x}", b.len()));
            }
            other => self.note(format_args!("ends {text}: {other:?}")),
        }
        self.stage.files.borrow_mut().end(self.sim.now_us(), op, told);
        got
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        let text = what.to_string();
        let words = [u64::from(self.life), digest(text.as_bytes())];
        self.sim.note(&words, format_args!("life {} {text}", self.life));
    }

    pub(super) async fn run(&mut self) {
        while self.stage.take(self.client) {
            let kind = self.stage.options.draw_kind(&self.rng);
            self.step(kind).await;
            if self.rng.below(3) == 0 {
                let most = self.stage.options.pause_us;
                self.cx.sleep(Duration::from_micros(self.rng.below(most))).await;
            }
        }
    }

    pub(super) async fn close_all(&mut self) {
        while let Some(open) = self.open.pop() {
            if self.rng.coin() {
                self.push(open, true, false).await;
            }
            self.close(open).await;
        }
    }

    fn name(&self) -> Name {
        let o = &self.stage.options;
        let mut name = self.rng.below(o.names) as u8;
        if !o.shared {
            name += 8 * (self.client as u8 + 1);
        }
        Name { dir: self.rng.below(o.dirs) as u8, name }
    }

    async fn step(&mut self, kind: Kind) {
        let open = (!self.open.is_empty()).then(|| *self.rng.pick(&self.open));
        match (kind, open) {
            (Kind::Rename, _) => self.rename().await,
            (Kind::Unlink, _) => self.unlink(self.name()).await,
            (Kind::Look, _) => drop(self.look(self.name()).await),
            (Kind::List, _) => drop(self.list(self.rng.below(2) as u8).await),
            (Kind::CutPath, _) => {
                let Some(attr) = self.look(self.name()).await else { return };
                self.cut(attr.inode, false).await;
            }
            (Kind::Create, _) if self.open.len() < OPEN_MAX => drop(self.create(self.name()).await),
            (Kind::Open, _) | (_, None) if self.open.len() < OPEN_MAX => {
                if self.open_name(self.name()).await.is_err() && self.rng.coin() {
                    self.create(self.name()).await;
                }
            }
            (Kind::Write, Some(o)) if o.append => self.append(o).await,
            (Kind::Write, Some(o)) => self.write(o).await,
            (Kind::Read, Some(o)) => self.read_some(o).await,
            (Kind::Fsync, Some(o)) => self.push(o, true, self.rng.below(4) == 0).await,
            (Kind::Flush, Some(o)) => self.push(o, false, false).await,
            (Kind::Cut, Some(o)) => self.cut(o.handle.file, true).await,
            (Kind::Stat, Some(o)) => self.stat(o).await,
            (_, Some(o)) => {
                self.open.retain(|x| x.number != o.number);
                self.close(o).await;
            }
            (_, None) => {}
        }
    }

    fn opened(&mut self, handle: Handle, number: HandleNo) {
        let append = self.rng.chance(self.stage.options.append_ppm);
        self.open.push(Open { handle, number, append });
    }

    pub(super) async fn create(&mut self, name: Name) -> Option<Attr> {
        let number = self.stage.files.borrow_mut().handle();
        let bytes = bytes_of(name);
        let work = self.door.create(&self.cx, self.dir(name.dir), &bytes);
        let act = Act::Create { name, handle: number };
        let (attr, handle) = self.tell(act, work, |(attr, _)| file(attr)).await.ok()?;
        self.opened(handle, number);
        Some(attr)
    }

    pub(super) async fn open_name(&mut self, name: Name) -> Result<Attr, FsError> {
        let number = self.stage.files.borrow_mut().handle();
        let bytes = bytes_of(name);
        let work = self.door.open_name(&self.cx, self.dir(name.dir), &bytes, true);
        let act = Act::Open { name, handle: number };
        let (attr, handle) = self.tell(act, work, |(attr, _)| file(attr)).await?;
        self.opened(handle, number);
        Ok(attr)
    }

    /// Where a write goes, and how much it is.
    fn range(&self) -> (u64, u64) {
        let o = &self.stage.options;
        let chunk = u64::from(o.chunk_size);
        let len = match self.rng.below(4) {
            0 => 1 + self.rng.below(100),
            1 => 1 + self.rng.below(chunk / 4),
            2 => chunk,
            _ => 1 + self.rng.below(chunk + chunk / 2),
        };
        let most = o.file_max.saturating_sub(len) + 1;
        let at = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.below(most) / chunk * chunk,
            _ => self.rng.below(most),
        };
        (at, len)
    }

    fn data(&self, len: u64) -> Option<(u8, Bytes)> {
        let tag = self.stage.files.borrow_mut().tag()?;
        Some((tag, Bytes::from(vec![tag; len as usize])))
    }

    async fn write(&self, o: Open) {
        let (at, len) = self.range();
        self.write_at(o, at, len).await;
    }

    pub(super) async fn write_at(&self, o: Open, at: u64, len: u64) {
        let Some((tag, data)) = self.data(len) else { return self.read_some(o).await };
        let work = self.door.write(&self.cx, o.handle, at, data);
        let act = Act::Write { file: o.handle.file.0, at: Some(at), len, tag };
        let _ = self.tell(act, work, |()| Told::Done).await;
    }

    async fn append(&self, o: Open) {
        let len = 1 + self.rng.below(u64::from(self.stage.options.chunk_size) / 2);
        self.append_some(o, len).await;
    }

    pub(super) async fn append_some(&self, o: Open, len: u64) {
        let Some((tag, data)) = self.data(len) else { return self.read_some(o).await };
        let work = self.door.append(&self.cx, o.handle, data);
        let act = Act::Write { file: o.handle.file.0, at: None, len, tag };
        let _ = self.tell(act, work, |w| Told::Appended { at: w.offset, len: w.len as u64 }).await;
    }

    async fn read_some(&self, o: Open) {
        let most = self.stage.options.file_max;
        let (from, len) = match self.rng.below(3) {
            0 => (0, 2 * most),
            _ => (self.rng.below(most), 1 + self.rng.below(most)),
        };
        let _ = self.read(o, from, len).await;
    }

    pub(super) async fn read(&self, o: Open, from: u64, len: u64) -> Result<Bytes, FsError> {
        let work = self.door.read(&self.cx, o.handle, from, len as u32);
        let act = Act::Read { file: o.handle.file.0, from, len };
        self.tell(act, work, |b| Told::Bytes(b.to_vec())).await
    }

    pub(super) async fn push(&self, o: Open, durable: bool, data_only: bool) {
        let (file, handle) = (o.handle.file.0, o.number);
        let act = Act::Push { file, handle, durable };
        let _ = match durable {
            true => {
                let work = self.door.fsync(&self.cx, o.handle, data_only);
                self.tell(act, work, |()| Told::Done).await
            }
            false => {
                let work = self.door.flush(&self.cx, o.handle);
                self.tell(act, work, |()| Told::Done).await
            }
        };
    }

    pub(super) async fn close(&self, o: Open) {
        let work = self.door.close(&self.cx, o.handle);
        let act = Act::Close { file: o.handle.file.0, handle: o.number };
        let _ = self.tell(act, work, |()| Told::Done).await;
    }

    async fn cut(&self, inode: InodeId, open: bool) {
        let len = match self.rng.below(3) {
            0 => 0,
            _ => self.rng.below(self.stage.options.file_max),
        };
        self.cut_to(inode, len, open).await;
    }

    pub(super) async fn cut_to(&self, inode: InodeId, len: u64, open: bool) {
        let work = self.door.truncate(&self.cx, inode, len);
        let act = Act::Cut { file: inode.0, len, open };
        let _ = self.tell(act, work, |()| Told::Done).await;
    }

    async fn stat(&self, o: Open) {
        let work = self.door.stat(&self.cx, o.handle.file);
        let act = Act::Stat { file: o.handle.file.0 };
        let _ = self.tell(act, work, file).await;
    }

    pub(super) async fn look(&self, name: Name) -> Option<Attr> {
        let bytes = bytes_of(name);
        let work = self.door.lookup(&self.cx, self.dir(name.dir), &bytes);
        self.tell(Act::Look { name }, work, file).await.ok()
    }

    pub(super) async fn list(&self, dir: u8) -> Result<Vec<Entry>, FsError> {
        let work = async {
            let all = self.door.list(&self.cx, self.dir(dir)).await?;
            let files = all.iter().filter_map(|e| {
                let name = Name { dir, name: name_of(&e.name)? };
                Some(Entry { name, file: e.attr.inode.0, length: e.attr.length })
            });
            Ok(files.collect::<Vec<Entry>>())
        };
        self.tell(Act::List { dir }, work, |e| Told::Entries(e.clone())).await
    }

    pub(super) async fn unlink(&self, name: Name) {
        let bytes = bytes_of(name);
        let work = self.door.unlink(&self.cx, self.dir(name.dir), &bytes);
        let _ = self.tell(Act::Unlink { name }, work, |()| Told::Done).await;
    }

    async fn rename(&self) {
        let (from, to) = (self.name(), self.name());
        let how = *self.rng.pick(&[Move::Replace, Move::Replace, Move::NoReplace, Move::Exchange]);
        if from != to {
            self.move_name(from, to, how).await;
        }
    }

    pub(super) async fn move_name(&self, from: Name, to: Name, how: Move) {
        let (one, other) = (bytes_of(from), bytes_of(to));
        let (old, new) = ((self.dir(from.dir), &one[..]), (self.dir(to.dir), &other[..]));
        let work = self.door.rename(&self.cx, old, new, how);
        let _ = self.tell(Act::Rename { from, to, how }, work, |()| Told::Done).await;
    }

    /// Opens what a name holds, reads all of it and closes it.
    pub(super) async fn read_all(&mut self, name: Name) -> Result<(), FsError> {
        self.open_name(name).await?;
        let Some(o) = self.open.pop() else { return Ok(()) };
        self.stat(o).await;
        let got = self.read(o, 0, 4 * self.stage.options.file_max + (1 << 20)).await;
        self.close(o).await;
        got.map(drop)
    }
}

fn file(attr: &Attr) -> Told {
    Told::File { file: attr.inode.0, length: attr.length }
}

/// `n` and a number.
fn bytes_of(name: Name) -> Vec<u8> {
    format!("n{}", name.name).into_bytes()
}

fn name_of(bytes: &[u8]) -> Option<u8> {
    core::str::from_utf8(bytes.strip_prefix(b"n")?).ok()?.parse().ok()
}
