//! Where the chunks of a file are: its layout and the routing give its chains, for clients and meta
//! alike.

use crate::proto::ids::ChainId;
use crate::proto::meta::{Layout, Stripes};
use crate::proto::mgmtd::Routing;

/// Why a layout names no chains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unplaced {
    /// The routing does not have its chain table (yet).
    NoTable { table: u32, version: u32 },
    /// It has no chains at all.
    Empty,
    /// This build knows no shuffled layouts.
    Shuffled { seed: u64 },
}

impl std::fmt::Display for Unplaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unplaced::NoTable { table, version } => {
                write!(f, "version {version} of chain table {table} is not known here")
            }
            Unplaced::Empty => f.write_str("the file's layout has no chains"),
            Unplaced::Shuffled { seed } => {
                write!(f, "the file's chains are shuffled with seed {seed}: made by a newer t3fs?")
            }
        }
    }
}

/// The chain that holds chunk `index`.
pub fn chain_of(routing: &Routing, layout: &Layout, index: u32) -> Result<ChainId, Unplaced> {
    let (chains, at) = match &layout.stripes {
        Stripes::List { chains } => (chains, u64::from(index)),
        Stripes::Range { seed, .. } if *seed != 0 => {
            return Err(Unplaced::Shuffled { seed: *seed });
        }
        Stripes::Range { table, table_version, base, count, .. } => {
            let (table, version) = (*table, *table_version);
            let found = routing.table(table, version);
            let found = found.ok_or(Unplaced::NoTable { table, version })?;
            let stripe = index.checked_rem(*count).ok_or(Unplaced::Empty)?;
            (&found.chains, u64::from(*base) + u64::from(stripe))
        }
    };
    let at = at.checked_rem(chains.len() as u64).ok_or(Unplaced::Empty)?;
    Ok(chains[at as usize])
}

/// All its chains, in stripe order. One may be there several times.
pub fn chains_of(routing: &Routing, layout: &Layout) -> Result<Vec<ChainId>, Unplaced> {
    let count = match &layout.stripes {
        Stripes::List { chains } => chains.len() as u32,
        Stripes::Range { count, .. } => *count,
    };
    if count == 0 {
        return Err(Unplaced::Empty);
    }
    (0..count).map(|index| chain_of(routing, layout, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mgmtd::ChainTable;

    fn layout(stripes: Stripes) -> Layout {
        Layout { chunk_size: 1, stripes }
    }

    fn range(base: u32, count: u32, seed: u64) -> Layout {
        layout(Stripes::Range { table: 1, table_version: 2, base, count, seed })
    }

    /// Goal: chunks go round the stripes, stripes round the table, and what cannot be resolved says
    /// why instead of naming no chains.
    #[test]
    fn chunks_find_their_chains() {
        let chains = vec![ChainId(7), ChainId(8), ChainId(9)];
        let list = layout(Stripes::List { chains: chains.clone() });
        let tables = vec![ChainTable { id: 1, version: 2, chains }];
        let known = Routing { tables, ..Routing::default() };
        let nothing = Routing::default();
        let two = range(2, 2, 0);
        assert_eq!(chains_of(&known, &two), Ok(vec![ChainId(9), ChainId(7)]));
        let at = |layout, index| chain_of(&known, layout, index).unwrap().0;
        assert_eq!([0, 1, 2, u32::MAX].map(|i| at(&two, i)), [9, 7, 9, 7]);
        assert_eq!([0, 4, 5].map(|i| at(&list, i)), [7, 8, 9]);
        let missing = Unplaced::NoTable { table: 1, version: 2 };
        assert_eq!(chains_of(&nothing, &two), Err(missing));
        assert_eq!(chains_of(&nothing, &list).map(|c| c.len()), Ok(3));
        assert_eq!(chain_of(&known, &range(0, 2, 5), 0), Err(Unplaced::Shuffled { seed: 5 }));
        assert_eq!(chains_of(&known, &range(0, 0, 0)), Err(Unplaced::Empty));
        assert_eq!(
            chains_of(&known, &layout(Stripes::List { chains: vec![] })),
            Err(Unplaced::Empty)
        );
    }
}
