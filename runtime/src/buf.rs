//! Payload memory that travels with messages but outside their encoding.

use bytes::Bytes;

/// A payload of a message: shared, immutable bytes. In a message type the field is marked
/// `#[rkyv(with = rkyv::with::Skip)]` and shown by [`Carry::bulks`]; a link then moves the bytes
/// by its own means (the same buffer within a process, behind the frame on tcp, one-sided on rdma).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bulk(pub Bytes);

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bulk({} B)", self.0.len())
    }
}

impl std::ops::Deref for Bulk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bulk {
    fn from(v: Vec<u8>) -> Self {
        Bulk(v.into())
    }
}

impl From<Bytes> for Bulk {
    fn from(b: Bytes) -> Self {
        Bulk(b)
    }
}

/// Shows the payloads of a message, always in the same order, so that a link can take them out
/// before encoding and put them back after decoding.
pub trait Carry {
    fn bulks(&mut self, _each: &mut dyn FnMut(&mut Bulk)) {}

    /// Of a message: the most payload bytes that its reply may carry, for links that let it be
    /// pushed into memory of ours. 0 is always right.
    fn reply_room(&self) -> usize {
        0
    }

    /// Of a reply: whether it says that what was asked was not done.
    fn is_failure(&self) -> bool {
        false
    }
}

impl<T: Carry, E> Carry for Result<T, E> {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        if let Ok(v) = self {
            v.bulks(each);
        }
    }

    fn is_failure(&self) -> bool {
        self.is_err()
    }
}

impl<T: Carry> Carry for Option<T> {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        if let Some(v) = self {
            v.bulks(each);
        }
    }
}

impl<T: Carry> Carry for Vec<T> {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        for v in self {
            v.bulks(each);
        }
    }
}

impl Carry for Bytes {}
impl Carry for () {}
impl Carry for bool {}
impl Carry for u8 {}
impl Carry for u32 {}
impl Carry for u64 {}
impl Carry for String {}

/// Declares message or reply types that carry no payload.
#[macro_export]
macro_rules! no_bulk {
    ($($t:ty),* $(,)?) => { $(impl $crate::buf::Carry for $t {})* };
}
