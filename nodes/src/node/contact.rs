//! Whether this process has found its cluster: what the start of a server waits for a moment, and
//! what people are told of it. Who looks for mgmtds and the agent note it here.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::failure::Failure;

/// Shared by the shards and threads of a process.
#[derive(Clone, Default)]
pub(super) struct Contact(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// The primary has taken a heartbeat.
    is_member: bool,
    /// Why it takes none, the last time.
    refused: Option<String>,
    /// Why mgmtds were not found, the last time they were looked for.
    trouble: Option<Failure>,
    /// They were looked for once.
    looked: bool,
    /// The line to be told once it is a member.
    line: Option<String>,
}

/// How a process stands with its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The primary has taken a heartbeat.
    Member,
    /// Somebody is there and will not have this process.
    Refused(String),
    /// Nobody has answered.
    Unanswered(String),
    /// What has become of the first attempt is not known yet.
    Unknown,
}

impl Contact {
    /// Why mgmtds are not found, for people: in brackets, or nothing.
    pub(super) fn hint(&self) -> String {
        let known = self.known();
        known.trouble.as_ref().map_or_else(String::new, |why| format!(" ({})", why.line))
    }

    /// Somebody answered, and will not have us: time does not mend that.
    pub(super) fn is_refusal(&self) -> bool {
        self.known().trouble.as_ref().is_some_and(Failure::is_refusal)
    }

    pub(super) fn note_look(&self, trouble: Option<Failure>) {
        let mut known = self.known();
        known.trouble = trouble;
        known.looked = true;
    }

    /// What the primary said to a heartbeat.
    pub(super) fn note_heartbeat(&self, answer: Result<(), &str>) {
        let mut known = self.known();
        known.is_member |= answer.is_ok();
        known.refused = answer.err().map(str::to_owned);
    }

    pub(super) fn membership(&self) -> Membership {
        let known = self.known();
        if known.is_member {
            return Membership::Member;
        }
        if let Some(why) = &known.refused {
            return Membership::Refused(why.clone());
        }
        match &known.trouble {
            Some(why) if why.is_refusal() => Membership::Refused(why.line.clone()),
            Some(why) => Membership::Unanswered(why.line.clone()),
            None if known.looked => Membership::Unanswered("no mgmtd leads".into()),
            None => Membership::Unknown,
        }
    }

    /// Keeps a line to be told once this process is a member.
    pub(super) fn keep(&self, line: String) {
        self.known().line = Some(line);
    }

    /// That line, once, when it is time.
    pub(super) fn due(&self) -> Option<String> {
        let mut known = self.known();
        if known.is_member { known.line.take() } else { None }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{failed, refused};

    /// Goal: a start is told from what was heard last, and a member stays one. Method: all that can
    /// be noted, one after the other.
    #[test]
    fn what_was_heard_decides() {
        let c = Contact::default();
        assert_eq!(c.membership(), Membership::Unknown);
        c.note_look(Some(failed("a: nobody")));
        assert_eq!(c.membership(), Membership::Unanswered("a: nobody".into()));
        c.note_look(Some(refused("a: wrong secret")));
        assert_eq!(c.membership(), Membership::Refused("a: wrong secret".into()));
        c.note_look(None);
        assert_eq!(c.membership(), Membership::Unanswered("no mgmtd leads".into()));
        c.note_heartbeat(Err("the number is used"));
        assert_eq!(c.membership(), Membership::Refused("the number is used".into()));
        c.keep("serves".into());
        assert_eq!(c.due(), None);
        c.note_heartbeat(Ok(()));
        c.note_look(Some(failed("a: nobody")));
        assert_eq!((c.membership(), c.hint()), (Membership::Member, " (a: nobody)".into()));
        assert_eq!((c.due(), c.due()), (Some("serves".into()), None));
    }
}
