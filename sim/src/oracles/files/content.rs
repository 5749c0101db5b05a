//! Bytes, lengths and appends.

use super::settle::{Change, Kind, View};
use super::*;

impl Change {
    fn is_cut(&self) -> bool {
        matches!(self.kind, Kind::Cut)
    }

    /// The length that the file has, or has at least, right after this change.
    fn reach(&self) -> Option<u64> {
        self.from.map(|from| from + self.len)
    }

    fn covers(&self, at: u64) -> bool {
        match (self.from, &self.kind) {
            (None, _) => true,
            (Some(from), Kind::Cut) => at >= from,
            (Some(from), Kind::Write { .. }) => (from..from + self.len).contains(&at),
        }
    }

    fn value(&self) -> u8 {
        match self.kind {
            Kind::Write { tag } => tag,
            Kind::Cut => 0,
        }
    }

    fn before(&self, later: &Change) -> bool {
        let settled = self.settled.is_some_and(|s| s < later.begun);
        settled || (self.life == later.life && self.ended.is_some_and(|e| e < later.begun))
    }

    /// Whether a power loss of the store may have taken back what it settled.
    fn lost(&self, files: &Files, sight: &Sight) -> bool {
        // What an append has told meta the store may lose like anything else.
        let appended = self.ended.filter(|_| self.append);
        let Some(settled) = self.settled.or(appended) else { return false };
        let after = files.soft_until(settled.at_us);
        let hit = |l: &Stamp| (self.begun.at_us..=after).contains(&l.at_us) && *l < sight.ended;
        // Hard before the loss, or said to be there after it.
        let hard = self.hard;
        files
            .losses
            .iter()
            .filter(|l| hit(l))
            .any(|l| hard.is_none_or(|h| h > *l && h > sight.since))
    }

    /// Whether this observation must have seen the change (or what came after it).
    fn seen(&self, files: &Files, sight: &Sight) -> bool {
        let by = |s: Option<Stamp>, t: Stamp| s.is_some_and(|s| s <= t);
        if by(self.hard, sight.since) {
            return true;
        }
        let mine = self.life == sight.life && by(self.ended, sight.begun) && !self.doubtful;
        (mine || by(self.settled, sight.since)) && !self.lost(files, sight)
    }
}

/// Whether the store lost where one of two appends went before the other was given its place.
fn taken_back(files: &Files, one: &Change, other: &Change) -> bool {
    let lost_before = |first: &Change, second: &Change| {
        let hard = first.hard.is_some_and(|h| h < second.begun);
        // Meta hears of one that a client keeps to itself when it is settled.
        let told = first.settled.or(first.ended);
        let soft = told.map_or(u64::MAX, |e| files.soft_until(e.at_us));
        let hit =
            |l: &Stamp| first.begun < *l && l.at_us <= soft && second.ended.is_none_or(|e| *l < e);
        !hard && files.losses.iter().any(hit)
    };
    lost_before(one, other) || lost_before(other, one)
}

/// A sentence about a change.
fn told(files: &Files, c: &Change) -> String {
    files.line(c.op)
}

impl View {
    fn of(&self, file: File) -> &[Change] {
        self.changes.get(&file).map_or(&[], Vec::as_slice)
    }

    /// A hold that the store lost with its power: the file may be gone although it is open, if
    /// something has taken its last name after that.
    pub(super) fn hold_lost(&self, files: &Files, file: File, sight: &Sight) -> bool {
        let mine = self.handles.values().filter(|h| (h.life, h.file) == (sight.life, file));
        let open = mine.filter(|h| h.closed >= sight.begun);
        let lost = |h: &super::settle::Handle| {
            let soft = h.begun.at_us..=files.soft_until(h.opened.at_us);
            let hit = |l: &&Stamp| **l < sight.ended && soft.contains(&l.at_us);
            files.losses.iter().find(hit).copied()
        };
        let first = open.filter_map(lost).min();
        first.is_some_and(|l| self.may_be_unlinked(files, file, l, sight.ended))
    }

    /// Whether a read of `[from, from + len)` may give these bytes.
    pub(super) fn bytes_may_be(
        &self,
        files: &Files,
        file: File,
        from: u64,
        len: u64,
        bytes: &[u8],
        sight: Sight,
    ) -> Result<(), String> {
        let got = bytes.len() as u64;
        if self.hold_lost(files, file, &sight) {
            return Ok(());
        }
        let length = match got {
            0 => (0, from),
            n if n < len => (from + n, from + n),
            n if n == len => (from + len, u64::MAX),
            n => return Err(format!("{n} bytes are more than {len}")),
        };
        self.length_may_be(files, file, length, sight)?;
        let mut edges = vec![from, from + got];
        for c in self.of(file) {
            edges.extend(c.from.into_iter().chain(c.reach()));
        }
        edges.retain(|e| (from..=from + got).contains(e));
        edges.sort_unstable();
        edges.dedup();
        for pair in edges.windows(2) {
            let part = &bytes[(pair[0] - from) as usize..(pair[1] - from) as usize];
            let mut seen = [false; 256];
            for (i, b) in part.iter().enumerate() {
                if !std::mem::replace(&mut seen[usize::from(*b)], true) {
                    self.byte_may_be(files, file, pair[0], *b, &sight)
                        .map_err(|e| format!("byte {} is {b}: {e}", pair[0] + i as u64))?;
                }
            }
        }
        Ok(())
    }

    /// `at` stands for all bytes that the same changes cover.
    fn byte_may_be(
        &self,
        files: &Files,
        file: File,
        at: u64,
        value: u8,
        sight: &Sight,
    ) -> Result<(), String> {
        let over = || self.of(file).iter().filter(|c| c.covers(at) && c.begun < sight.ended);
        let must = |c: &&Change| c.from.is_some() && c.seen(files, sight);
        let mut why = match over().rfind(must) {
            Some(c) if value == 0 => format!("it was written before: {}", told(files, c)),
            None if value == 0 => return Ok(()), // as in the beginning
            _ => "nobody wrote that there".to_owned(),
        };
        for source in over().filter(|c| c.value() == value) {
            let surfaces = Self::may_surface(files, source);
            let hides = |x: &&Change| {
                source.before(x) && !(surfaces && x.is_cut())
                    || self.usurps(files, file, source, x, at, sight)
            };
            match over().filter(must).find(hides) {
                None => return Ok(()),
                Some(x) => why = format!("that was overwritten: {}", told(files, x)),
            }
        }
        Err(why)
    }

    /// Whether an append that failed would lie in the place of another's: it was never given that.
    fn usurps(
        &self,
        files: &Files,
        file: File,
        source: &Change,
        other: &Change,
        at: u64,
        sight: &Sight,
    ) -> bool {
        // What was cut is given anew.
        let cut_after = |t: &Change| {
            let cut = t.is_cut() && t.begun < sight.ended && !t.before(other);
            cut && t.reach().is_some_and(|l| l <= at)
        };
        let unplaced = source.append && source.from.is_none();
        unplaced
            && (other.append && other.op != source.op && other.from.is_some())
            && !self.of(file).iter().any(cut_after)
            && !taken_back(files, source, other)
    }

    /// Whether bytes may lie behind the end of the file and show when it is extended: those of a
    /// write whose client has given it up (decision 014).
    fn may_surface(files: &Files, source: &Change) -> bool {
        source.doubtful && files.excuses.impatient
    }

    /// Whether the length may be within these bounds, both included.
    pub(super) fn length_may_be(
        &self,
        files: &Files,
        file: File,
        (low, high): (u64, u64),
        sight: Sight,
    ) -> Result<(), String> {
        if self.hold_lost(files, file, &sight) {
            return Ok(());
        }
        let begun = || self.of(file).iter().filter(|c| c.begun < sight.ended && c.op != sight.op);
        let must: Vec<&Change> =
            begun().filter(|c| c.from.is_some() && c.seen(files, &sight)).collect();
        let cuts: Vec<&Change> = begun().filter(|c| c.is_cut()).collect();
        // A length may not be less than what must be seen, unless a cut may have come after it.
        let too_short = |length: u64| {
            must.iter().copied().find(|x| {
                let reach = x.reach().unwrap_or(0);
                // Of a cut that failed perhaps only the bytes behind it are gone.
                let left = |t: &Change| match (t.ended, t.reach(), x.from) {
                    (None, Some(cut), Some(from)) if !x.is_cut() && cut <= from => Some(0),
                    (_, cut, _) => cut,
                };
                let cut_after = |t: &&Change| {
                    t.op != x.op && !t.before(x) && left(t).is_some_and(|l| l <= length)
                };
                reach > length && !cuts.iter().any(&cut_after)
            })
        };
        let sources = self.length_sources(files, file, &sight);
        let mut candidates: Vec<u64> = begun().filter_map(Change::reach).collect();
        candidates.extend([0, low, high]);
        candidates.retain(|l| (low..=high).contains(l));
        let mut why = None;
        for (source, (first, last)) in sources {
            let cut = must.iter().copied().filter(|x| x.is_cut());
            if let Some(x) = cut.into_iter().find(|x| source.is_none_or(|s| s.before(x))) {
                why.get_or_insert_with(|| format!("it was cut: {}", told(files, x)));
                continue;
            }
            for l in candidates.iter().copied().filter(|l| (first..=last).contains(l)) {
                match too_short(l) {
                    None => return Ok(()),
                    Some(x) => why = Some(format!("it was written: {}", told(files, x))),
                }
            }
        }
        let why = why.unwrap_or_else(|| "nothing explains it".to_owned());
        Err(format!("the length is {low} to {high}, {why}"))
    }

    /// Where a length may come from: the lengths that each change may leave behind, first and last,
    /// and that of a new file.
    fn length_sources(
        &self,
        files: &Files,
        file: File,
        sight: &Sight,
    ) -> Vec<(Option<&Change>, (u64, u64))> {
        // An append does not explain where it went.
        let begun = || self.of(file).iter().filter(|c| c.begun < sight.ended && c.op != sight.op);
        // A cut that is under way takes one chunk after the other.
        let under_way = |t: &Change| t.is_cut() && t.ended.is_none_or(|e| e > sight.begun);
        let cutting = begun().any(under_way);
        let cut_to = begun().filter(|t| under_way(t)).filter_map(Change::reach).min();
        let appended: u64 = begun().filter(|c| c.from.is_none()).map(|c| c.len).sum();
        let most = begun().filter_map(Change::reach).max().unwrap_or(0);
        let of_change = |c: &'_ Change| {
            // Nor do a write and a cut that are not ordered act on all chunks in one order.
            let mixes = |t: &Change| t.is_cut() && !t.before(c) && !c.before(t);
            let whole = c.is_cut() || (c.seen(files, sight) && !cutting && !begun().any(mixes));
            match (c.from, c.reach()) {
                (Some(from), Some(reach)) => {
                    // Only part of it may have been stored.
                    let first = if whole { cut_to.unwrap_or(reach).min(reach) } else { from };
                    // An append behind one that was cut short has kept its place.
                    (first, reach.max(from + c.asked))
                }
                _ => (0, most + appended),
            }
        };
        // What the store has lost of an append a late duplicate of its request may do again: it
        // moves the end.
        let forgotten = |c: &&Change| {
            let soft = c.begun.at_us..=c.ended.map_or(u64::MAX, |e| files.soft_until(e.at_us));
            c.append && files.losses.iter().any(|l| *l < sight.ended && soft.contains(&l.at_us))
        };
        let again: u64 = begun().filter(forgotten).map(|c| c.len).sum();
        let all = begun().map(|c| (Some(c), of_change(c))).chain([(None, (0, 0))]);
        all.map(|(c, (first, last))| (c, (first, last + again))).collect()
    }

    /// Whether an append may have gone to `at`: the end of the file, and nobody else's.
    pub(super) fn append_may_be_at(
        &self,
        files: &Files,
        file: File,
        at: u64,
        len: u64,
        sight: Sight,
    ) -> Result<(), String> {
        self.length_may_be(files, file, (at, at), sight)
            .map_err(|e| format!("it went to {at} as the end: {e}"))?;
        let all = self.of(file);
        let cut = |c: &Change, other: &Change| {
            let first = c.begun.min(other.begun);
            let over = |t: &Change| t.settled.is_some_and(|s| s < first);
            all.iter().any(|t| t.is_cut() && !over(t))
        };
        let Some(me) = all.iter().find(|c| c.op == sight.op) else { return Ok(()) };
        let others = all.iter().filter(|c| c.append && c.op != sight.op && c.ended.is_some());
        for other in others {
            let Some(from) = other.from else { continue };
            let back = taken_back(files, me, other) || taken_back(files, other, me);
            // What a client has kept to itself until it crashed is nobody's place.
            let gone = |c: &Change| c.settled.is_none() && self.crashed.contains(&c.life);
            let lost = me.doubtful || other.doubtful || back || gone(me) || gone(other);
            if from < at + len && at < from + other.len && !lost && !cut(me, other) {
                return Err(format!("two appends overlap: {}", told(files, other)));
            }
        }
        Ok(())
    }
}
