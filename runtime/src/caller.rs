//! Who asks: beside the deadline, what a request and all that follows from it is done for.
//!
//! It stands in front of the message in a frame of its own kind, for peers that speak
//! `SPOKEN_CALLER` or more:
//!
//! ```text
//! [length u32 of what follows][node u32][user id u32][group id u32][token's user u32]
//! [groups u32][group id u32 * groups]          little-endian; a token's user of u32::MAX is none
//! ```
//! What a later build appends is within the length, and passed over.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::addr::NodeId;
use crate::wire_error::WireError;

/// Groups of a caller that travel; Linux knows up to 65,536 (`NGROUPS_MAX`).
pub const GROUPS_MAX: usize = 65_536;
const HEAD: usize = 20;
const NO_TOKEN: u32 = u32::MAX;

/// A program, as its node says it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Caller {
    /// Whose process asked first.
    pub node: NodeId,
    pub user: u32,
    pub group: u32,
    /// Further groups, as far as somebody needed them.
    pub groups: Vec<u32>,
    /// Whose token came with the request, if one did.
    pub token_user: Option<u32>,
}

impl Caller {
    /// Puts it in front of a message.
    pub(crate) fn before(&self, message: &[u8]) -> Bytes {
        let groups = &self.groups[..self.groups.len().min(GROUPS_MAX)];
        let length = HEAD + 4 * groups.len();
        let mut out = BytesMut::with_capacity(4 + length + message.len());
        let token = self.token_user.unwrap_or(NO_TOKEN);
        let head = [length as u32, self.node.0, self.user, self.group, token, groups.len() as u32];
        for n in head.iter().chain(groups) {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(message);
        out.freeze()
    }

    /// Takes it off a message.
    pub(crate) fn split(mut bytes: Bytes) -> Result<(Arc<Caller>, Bytes), WireError> {
        let u32_at = |bytes: &[u8], at: usize| {
            let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            let short = WireError::Short { have: bytes.len(), need: at + 4 };
            word.map(u32::from_le_bytes).ok_or(short)
        };
        let length = u32_at(&bytes, 0)? as usize;
        if length < HEAD || length > bytes.len() - 4 {
            return Err(WireError::Corrupt("length of a caller"));
        }
        let message = bytes.split_off(4 + length);
        let groups = u32_at(&bytes, HEAD)? as usize;
        if groups > GROUPS_MAX || HEAD + 4 * groups > length {
            return Err(WireError::Corrupt("groups of a caller"));
        }
        let groups = (0..groups).map(|i| u32_at(&bytes, 4 + HEAD + 4 * i));
        let token = u32_at(&bytes, 16)?;
        let caller = Caller {
            node: NodeId(u32_at(&bytes, 4)?),
            user: u32_at(&bytes, 8)?,
            group: u32_at(&bytes, 12)?,
            groups: groups.collect::<Result<_, _>>()?,
            token_user: (token != NO_TOKEN).then_some(token),
        };
        Ok((Arc::new(caller), message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        let (user, group) = (1000, 100);
        Caller { node: NodeId(7), user, group, groups: vec![4, 27], token_user: Some(12) }
    }

    /// Goal: the format stays what it is, and a later build may append to it.
    #[test]
    fn a_caller_comes_back() {
        let bytes = caller().before(b"message");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let golden = "1c00000007000000e8030000640000000c00000002000000040000001b000000\
                      6d657373616765";
        assert_eq!(hex, golden);
        assert_eq!(Caller::split(bytes.clone()), Ok((caller().into(), "message".into())));
        let mut longer = bytes.to_vec();
        longer[0] += 3;
        longer.splice(32..32, [9; 3]);
        assert_eq!(Caller::split(longer.into()), Ok((caller().into(), "message".into())));
        let nobody = Caller::default();
        let split = Caller::split(nobody.before(b""));
        assert_eq!(split, Ok((nobody.into(), Bytes::new())));
    }

    #[test]
    fn rubbish_is_no_caller() {
        let good = caller().before(b"");
        for cut in 0..good.len() {
            assert!(Caller::split(good.slice(..cut)).is_err(), "cut to {cut}");
        }
        for (at, what) in [(0, "length"), (20, "groups")] {
            let mut bad = good.to_vec();
            bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(Caller::split(bad.into()).is_err(), "{what}");
        }
    }
}
