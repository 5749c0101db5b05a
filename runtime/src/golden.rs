//! Golden files: the bytes of stored values and messages, pinned for builds to come. For tests.
//!
//! A file has a line `Type hex` for each struct and `Type::Variant hex` for each variant of an
//! enum: the rkyv bytes of one sample. `cargo ops tidy` requires a line for every frozen type and
//! every message. The test that [`samples!`](crate::samples) makes compares; with `T3FS_BLESS=1` in
//! its environment it adds the lines that are missing, and never changes one: a type that must
//! change becomes a new version, beside the one that is frozen. (The line of a message whose
//! version grows is removed by hand.)

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::addr::{NodeId, RawAddr};
use crate::buf::Bulk;
use crate::wire::{self, Wire};

/// Numbers for the fields of one sample: all different.
#[derive(Default)]
pub struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// A value of which every field is told from the others. Of an enum: its first variant.
pub trait Sample: Sized {
    fn sample(n: &mut Numbers) -> Self;
}

macro_rules! numbers {
    ($($t:ty)*) => { $(
        impl Sample for $t {
            fn sample(n: &mut Numbers) -> $t {
                n.next() as $t
            }
        }
    )* };
}
numbers!(u8 u16 u32 u64);

impl Sample for i64 {
    fn sample(n: &mut Numbers) -> i64 {
        -i64::from(n.next())
    }
}

impl Sample for bool {
    fn sample(_: &mut Numbers) -> bool {
        true
    }
}

impl Sample for String {
    fn sample(n: &mut Numbers) -> String {
        format!("text {}, too long to be kept inline", n.next())
    }
}

impl Sample for Bytes {
    fn sample(n: &mut Numbers) -> Bytes {
        String::sample(n).into()
    }
}

/// It travels beside what names it.
impl Sample for Bulk {
    fn sample(_: &mut Numbers) -> Bulk {
        Bulk::default()
    }
}

impl Sample for NodeId {
    fn sample(n: &mut Numbers) -> NodeId {
        NodeId(n.next())
    }
}

impl Sample for RawAddr {
    fn sample(n: &mut Numbers) -> RawAddr {
        let (node, shard, slot) = (Sample::sample(n), Sample::sample(n), Sample::sample(n));
        RawAddr { node, shard, slot, epoch: Sample::sample(n) }
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(n: &mut Numbers) -> Option<T> {
        Some(T::sample(n))
    }
}

impl<T: Sample> Sample for Box<T> {
    fn sample(n: &mut Numbers) -> Box<T> {
        Box::new(T::sample(n))
    }
}

impl<T: Sample> Sample for Arc<T> {
    fn sample(n: &mut Numbers) -> Arc<T> {
        Arc::new(T::sample(n))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(n: &mut Numbers) -> Vec<T> {
        vec![T::sample(n), T::sample(n)]
    }
}

impl<T: Sample, const N: usize> Sample for [T; N] {
    fn sample(n: &mut Numbers) -> [T; N] {
        core::array::from_fn(|_| T::sample(n))
    }
}

impl<A: Sample, B: Sample> Sample for (A, B) {
    fn sample(n: &mut Numbers) -> (A, B) {
        (A::sample(n), B::sample(n))
    }
}

impl<A: Sample, B: Sample, C: Sample> Sample for (A, B, C) {
    fn sample(n: &mut Numbers) -> (A, B, C) {
        (A::sample(n), B::sample(n), C::sample(n))
    }
}

/// The lines of one golden file against the types of this build.
pub struct Goldens {
    path: &'static str,
    stored: BTreeMap<String, String>,
    missing: Vec<String>,
    wrong: Vec<String>,
}

impl Goldens {
    /// The file may not be there yet.
    pub fn open(path: &'static str) -> Goldens {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let stored = lines.map(|(name, hex)| (name.to_owned(), hex.to_owned())).collect();
        Goldens { path, stored, missing: Vec::new(), wrong: Vec::new() }
    }

    /// Compares one value, which must also come back from its bytes.
    pub fn note<T: Wire + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let sealed = wire::seal(0, 0, value);
        let back = wire::open::<T>(0, 0, &sealed);
        assert_eq!(back.as_ref().ok(), Some(value), "{name} does not come back");
        let bytes = &sealed[4..];
        let mut hex = String::from("-");
        if !bytes.is_empty() {
            hex.clear();
        }
        bytes.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a String takes it"));
        match self.stored.remove(name) {
            Some(stored) if stored == hex => {}
            Some(stored) => self.wrong.push(format!("{name}\n  was {stored}\n  is  {hex}")),
            None => self.missing.push(format!("{name} {hex}\n")),
        }
    }

    /// # Panics
    /// Unless every line was compared and fits, and no line is missing.
    pub fn finish(self) {
        let Goldens { path, stored, missing, wrong } = self;
        assert!(wrong.is_empty(), "{path}: frozen types have changed:\n{}", wrong.join("\n"));
        assert!(stored.is_empty(), "{path}: types that were frozen are gone: {:?}", stored.keys());
        if missing.is_empty() {
            return;
        }
        let missing = missing.concat();
        let blessed = std::env::var_os("T3FS_BLESS").is_some();
        assert!(blessed, "{path}: add these lines, by T3FS_BLESS=1:\n{missing}");
        let before = std::fs::read_to_string(path).unwrap_or_default();
        std::fs::write(path, before + &missing).expect("the golden file can be written");
    }
}

/// Makes samples of types, and the test that compares them with a golden file beside the sources.
///
/// ```ignore
/// samples! { "/src/golden/file.txt":
///     struct Point { x, y }
///     struct Meters(m)
///     struct Nothing
///     enum Shape { Dot, Circle(radius), Square { side } }
/// }
/// ```
/// The compiler refuses a field or variant that is left out.
#[macro_export]
macro_rules! samples {
    ($path:literal: $($kind:ident $name:ident $({ $($body:tt)* })? $(($($tuple:ident),*))?)*) => {
        $( $crate::sample! { $kind $name $({ $($body)* })? $(($($tuple),*))? } )*

        /// Goal: frozen bytes stay as they are. Method: one sample of each type and variant
        /// against the golden file.
        #[test]
        fn golden_samples() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), $path);
            let mut goldens = $crate::golden::Goldens::open(path);
            $( $name::note_samples(&mut goldens); )*
            goldens.finish();
        }
    };
}

/// One type of [`samples!`].
#[doc(hidden)]
#[macro_export]
macro_rules! sample {
    (struct $name:ident $({ $($field:ident),* $(,)? })? $(($($tuple:ident),*))?) => {
        impl $crate::golden::Sample for $name {
            #[allow(unused_variables)]
            fn sample(n: &mut $crate::golden::Numbers) -> $name {
                $name $({ $($field: $crate::golden::Sample::sample(n)),* })?
                    $(($({ let $tuple = $crate::golden::Sample::sample(n); $tuple }),*))?
            }
        }
        impl $name {
            fn note_samples(goldens: &mut $crate::golden::Goldens) {
                let sample = <$name as $crate::golden::Sample>::sample(&mut Default::default());
                goldens.note(stringify!($name), &sample);
            }
        }
    };
    (enum $name:ident {
        $($variant:ident $({ $($field:ident),* $(,)? })? $(($($tuple:ident),*))?),* $(,)?
    }) => {
        impl $name {
            /// One of each variant; the match has no other.
            #[allow(unused_variables)]
            fn samples(n: &mut $crate::golden::Numbers) -> Vec<(&'static str, $name)> {
                let all = vec![$( (
                    concat!(stringify!($name), "::", stringify!($variant)),
                    $name::$variant $({ $($field: $crate::golden::Sample::sample(n)),* })?
                        $(($({ let $tuple = $crate::golden::Sample::sample(n); $tuple }),*))?
                ) ),*];
                for (_, sample) in &all {
                    match sample {
                        $( $name::$variant { .. } => {} )*
                    }
                }
                all
            }
            fn note_samples(goldens: &mut $crate::golden::Goldens) {
                for (name, sample) in $name::samples(&mut Default::default()) {
                    goldens.note(name, &sample);
                }
            }
        }
        impl $crate::golden::Sample for $name {
            fn sample(n: &mut $crate::golden::Numbers) -> $name {
                $name::samples(n).swap_remove(0).1
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    struct Point {
        x: u16,
        y: Vec<u8>,
    }

    fn goldens(line: Option<(&str, &str)>) -> Goldens {
        let stored = line.map(|(name, hex)| (name.to_owned(), hex.to_owned()));
        let stored = stored.into_iter().collect();
        Goldens { path: "none", stored, missing: Vec::new(), wrong: Vec::new() }
    }

    /// Goal: what differs, is missing, or is gone fails. Method: one type against each.
    #[test]
    fn only_what_is_stored_passes() {
        let point = Point { x: 1, y: vec![2, 3] };
        let note = |line| {
            let mut goldens = goldens(line);
            goldens.note("Point", &point);
            (goldens.stored.len(), goldens.missing.len(), goldens.wrong.len())
        };
        let found = wire::seal(0, 0, &point);
        let whole: String = found[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = &whole[2..];
        assert_eq!(note(Some(("Point", &whole))), (0, 0, 0));
        assert_eq!(note(Some(("Point", hex))), (0, 0, 1));
        assert_eq!(note(None), (0, 1, 0));
        assert_eq!(note(Some(("Line", hex))), (1, 1, 0));
    }
}
