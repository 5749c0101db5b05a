//! What a seed draws: how many of what, which operations, which faults. Everything can be left
//! out by name, so that a run looks at some of it alone.

use core::time::Duration;

use crate::checks::Run;
use crate::faults::{Menu, Swarm};
use crate::oracles::files::Excuses;
use crate::rng::Rng;
use crate::world::{NetFaults, ScheduleFaults};

/// What a run may leave out. `faults` is all that stands before it.
pub(in crate::checks) const PARTS: &[&str] = &[
    "kv-crash",
    "kv-power",
    "client-crash",
    "meta-crash",
    "mgmtd-crash",
    "storage-crash",
    "power",
    "net",
    "cuts",
    "resets",
    "pauses",
    "slow",
    "disk-errors",
    "flips",
    "full",
    "patience",
    "deadline",
    "faults",
    "append",
    "cut",
    "cut-path",
    "rename",
    "unlink",
    "create",
    "users",
    "sharing",
    "clients",
    "stories",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Create,
    Open,
    Write,
    Read,
    Fsync,
    Flush,
    Close,
    Cut,
    CutPath,
    Stat,
    Look,
    Rename,
    Unlink,
    List,
}

/// What scheduling takes.
const SLACK: Duration = Duration::from_millis(200);

/// How often each operation is drawn, and the part that it belongs to.
const KINDS: &[(Kind, u64, &str)] = &[
    (Kind::Create, 10, ""),
    (Kind::Open, 14, ""),
    (Kind::Write, 34, ""),
    (Kind::Read, 18, ""),
    (Kind::Fsync, 12, ""),
    (Kind::Flush, 4, ""),
    (Kind::Close, 10, ""),
    (Kind::Cut, 5, "cut"),
    (Kind::CutPath, 4, "cut-path"),
    (Kind::Stat, 6, ""),
    (Kind::Look, 5, ""),
    (Kind::Rename, 7, "rename"),
    (Kind::Unlink, 6, "unlink"),
    (Kind::List, 3, ""),
];

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) clients: u32,
    /// Per client.
    pub(super) users: u32,
    /// Per client.
    pub(super) ops: u32,
    pub(super) pause_us: u64,
    /// The first client is alone for up to this long.
    pub(super) late_us: u64,
    pub(super) buffer: usize,
    pub(super) patience: Option<Duration>,
    /// How long a request may take that a program waits for.
    pub(super) deadline: Option<Duration>,
    pub(super) dirs: u64,
    pub(super) names: u64,
    /// Names are everybody's.
    pub(super) shared: bool,
    pub(super) append_ppm: u32,
    pub(super) chunk_size: u32,
    /// Writes end below this.
    pub(super) file_max: u64,
    kinds: Vec<(Kind, u64)>,
    pub(super) faults: Faults,
    pub(super) story: Option<Story>,
}

/// One seed of so many tells each story.
const ONE_OF: u64 = 24;
/// A run with a plot: users of all clients do what is written in `stories.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Story {
    /// One user of a mount fills a chain that is dead. Another one of the same mount goes on with
    /// other chains and with names: none of that takes long.
    DeadChain,
    /// A name is removed or replaced, and the store loses its power shortly after. The name may
    /// come back; if so it has the content that was fsynced.
    NameBack,
    /// One mount writes a file and closes it, another cuts it before or just then: nothing is left
    /// behind the end, and what comes after the cut shows.
    CutBeside,
    /// A file grows and meta is told, the store loses its power, and only then is the file fsynced:
    /// the fsync fails or what was written is there.
    LateFsync,
    /// A mount is cut off in the middle of an append over two chunks, one of which waits for its
    /// chain, and its session is ended. Another mount appends, at once or when the turn has passed
    /// to it: that stays as it is, and its other programs read the file meanwhile.
    LongAppend,
}

impl Story {
    pub(super) fn draw(run: &Run<'_>) -> Option<Story> {
        match run.world.rng(10).below(ONE_OF) {
            _ if !run.with("stories") || !run.with("faults") => None,
            0 => Some(Story::DeadChain),
            1 => Some(Story::NameBack),
            2 | 5..8 => Some(Story::CutBeside), // the moment is short
            3 => Some(Story::LateFsync),
            4 => Some(Story::LongAppend),
            _ => None,
        }
    }
}

/// Which faults, beside those of a [`Swarm`].
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) any: bool,
    /// Mean time between two losses of the KV host; 0 is never. With or without its power.
    pub(super) kv_every_us: u64,
    pub(super) kv_power: bool,
    /// How long a sync of the KV store takes at most.
    pub(super) sync_us: u64,
    pub(super) client_crash: bool,
    pub(super) meta_crash: bool,
    pub(super) mgmtd_crash: bool,
    pub(super) storage_crash: bool,
    /// Crashes may be losses of power.
    pub(super) power: bool,
    pub(super) full_every_us: u64,
    pub(super) swarm: Swarm,
}

impl Options {
    pub(super) fn draw(run: &Run<'_>, chunk_size: u32) -> Options {
        let rng = run.world.rng(2);
        let clients = if run.with("clients") { 2 + rng.below(3) as u32 } else { 1 };
        let (users, many) = (1 + rng.below(2) as u32, rng.below(3) == 0);
        let kinds = KINDS.iter().filter(|k| {
            // Some runs do without some of it; all do what files are for.
            let wanted = k.2.is_empty() || rng.below(4) > 0;
            wanted && run.with(k.2)
        });
        let kinds: Vec<(Kind, u64)> = kinds.map(|k| (k.0, k.1)).collect();
        let append = *rng.pick(&[0, 200_000, 500_000, 1_000_000]);
        let patience = *rng.pick(&[None, None, Some(700), Some(2_500)]);
        let shared = rng.below(5) > 0;
        let chunk = u64::from(chunk_size);
        let mut options = Options {
            clients,
            users: if run.with("users") { users } else { 1 },
            ops: if many { 60 } else { 40 } * 2 / clients.max(2) + 10,
            pause_us: *rng.pick(&[1_000, 100_000, 300_000]),
            late_us: *run.world.rng(13).pick(&[0, 0, 30_000, 3_000_000]),
            buffer: *rng.pick(&[1 << 20, 1 << 20, 3 * chunk as usize]),
            patience: patience.filter(|_| run.with("patience")).map(Duration::from_millis),
            dirs: 1 + rng.below(2),
            names: 1 + rng.below(3),
            shared: shared && run.with("sharing"),
            append_ppm: if run.with("append") { append } else { 0 },
            chunk_size,
            file_max: chunk * (2 + rng.below(3)),
            kinds,
            faults: Faults::draw(run, &rng),
            deadline: Options::deadline(run),
            story: None,
        };
        if options.bad_disks() {
            // A chain may never come back: nobody waits for it again and again.
            options.patience.get_or_insert(Duration::from_secs(20));
        }
        options
    }

    fn deadline(run: &Run<'_>) -> Option<Duration> {
        let rng = run.world.rng(11);
        let some = rng.below(4) == 0 && run.with("deadline");
        some.then(|| Duration::from_millis(300 + rng.below(1_200)))
    }

    /// By when an operation must have ended. A client that stands still cannot keep that.
    pub(super) fn due(&self) -> Option<Duration> {
        let deadline = self.deadline.filter(|_| self.faults.swarm.pause_every_us == 0)?;
        // A close is two requests.
        Some(deadline * 2 + SLACK)
    }

    pub(super) fn draw_kind(&self, rng: &Rng) -> Kind {
        let sum = self.kinds.iter().map(|k| k.1).sum();
        let mut at = rng.below(sum);
        for (kind, weight) in &self.kinds {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        Kind::Read
    }

    pub(super) fn bad_disks(&self) -> bool {
        self.disk_errors() || self.flips()
    }

    pub(super) fn disk_errors(&self) -> bool {
        let d = &self.faults.swarm.disk;
        d.read_error_ppm + d.write_error_ppm + d.sync_error_ppm > 0
    }

    fn flips(&self) -> bool {
        self.faults.swarm.disk.flip_on_write_ppm + self.faults.swarm.disk.flip_on_read_ppm > 0
    }

    pub(super) fn full_disks(&self) -> bool {
        self.faults.swarm.disk.no_space_ppm > 0 || self.faults.full_every_us > 0
    }

    /// Bytes may stay behind the end of a file until it is cut: of a write that has failed or was
    /// given up, and of a report that the store has lost.
    pub(super) fn leaves_bytes_behind(&self) -> bool {
        self.patience.is_some() || self.full_disks() || self.bad_disks() || self.faults.kv_power
    }

    pub(super) fn excuses(&self) -> Excuses {
        let (no_space, bad_disks) = (self.full_disks(), self.bad_disks());
        Excuses {
            faults: self.faults.any,
            impatient: self.patience.is_some(),
            no_space,
            bad_disks,
            pauses: self.faults.swarm.pause_every_us > 0,
        }
    }
}

impl Faults {
    fn draw(run: &Run<'_>, rng: &Rng) -> Faults {
        let mut menu = Menu::default();
        // Most runs have sound disks: else chains stop, and little else happens.
        match rng.below(8) {
            0 if run.with("disk-errors") => {
                menu.disk.read_error_ppm = 5_000;
                menu.disk.write_error_ppm = 5_000;
                menu.disk.sync_error_ppm = 5_000;
            }
            1 if run.with("flips") => match rng.below(2) {
                0 => menu.disk.flip_on_read_ppm = 5_000,
                _ => menu.disk.flip_on_write_ppm = 5_000,
            },
            2 if run.with("full") => menu.disk.no_space_ppm = 20_000,
            _ => {}
        }
        let full = rng.below(8) == 0;
        let mut swarm = Swarm::draw(rng, &menu);
        swarm.crash_every_us *= 6;
        swarm.part_every_us *= 3;
        swarm.pause_every_us *= 2;
        let kv = *rng.pick(&[0, 0, 600_000, 1_500_000, 4_000_000]);
        let (kv_power, sync_us) = (rng.below(4) > 0, *rng.pick(&[0, 2_000, 30_000]));
        let coin = |part: &str| rng.below(3) > 0 && run.with(part);
        let mut f = Faults {
            any: run.with("faults"),
            kv_every_us: if run.with("kv-crash") { kv } else { 0 },
            kv_power: kv_power && run.with("kv-power"),
            sync_us: if run.with("slow") { sync_us } else { 0 },
            client_crash: coin("client-crash"),
            meta_crash: coin("meta-crash"),
            mgmtd_crash: coin("mgmtd-crash"),
            // A bit that flips in the last block of a journal looks, to who opens it, like a write
            // that was under way: an update is lost that was acknowledged. Until replicas compare
            // what they have, servers with such disks stay up.
            storage_crash: coin("storage-crash") && menu.disk.flip_on_write_ppm == 0,
            power: coin("power"),
            full_every_us: if full && run.with("full") { 1_000_000 } else { 0 },
            swarm,
        };
        f.leave_out(run);
        if f.any { f } else { Faults::default() }
    }

    fn leave_out(&mut self, run: &Run<'_>) {
        let s = &mut self.swarm;
        if !run.with("net") {
            s.net = NetFaults::default();
        }
        if !run.with("slow") {
            s.schedule = ScheduleFaults::default();
            s.disk_hiccup_ppm = 0;
        }
        if !run.with("cuts") {
            s.part_every_us = 0;
        }
        if !run.with("resets") {
            s.reset_every_us = 0;
        }
        if !run.with("pauses") {
            s.pause_every_us = 0;
        }
    }
}
