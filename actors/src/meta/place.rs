//! Where new files' chunks go, and which chains a layout means.

use core::time::Duration;

use futures::future::LocalBoxFuture;
use t3fs_runtime::{Addr, AskError, Cx};

use crate::proto::agent::Agent;
use crate::proto::agent::GetView;
use crate::proto::ids::{InodeId, ViewVersion};
use crate::proto::meta::{Layout, MetaError, Stripes};
use crate::proto::mgmtd::ClusterView;
use crate::proto::storage::Storage;
use crate::proto::storage::{
    Extents, FileExtents, ListInodes, RemoveChunks, Removed, StorageError,
};
use crate::timing::is_longer;

/// Longest wait for the routing of whoever leads, and how long before its end an agent gives up.
const FRESH_MAX: Duration = Duration::from_secs(4);
const FRESH_MARGIN: Duration = Duration::from_millis(1500);
const _: () = assert!(is_longer(FRESH_MAX, 2, FRESH_MARGIN));

/// What meta needs of the rest of the cluster; tests feed their own.
pub trait Outside {
    /// The view of the cluster, if it is newer than `have` and can be had.
    fn view<'a>(&'a self, cx: &'a Cx, have: ViewVersion)
    -> LocalBoxFuture<'a, Option<ClusterView>>;

    /// The same, asked of whoever leads the cluster now.
    ///
    /// # Errors
    /// A sentence: nobody who leads has answered, and what is here may be old.
    fn fresh_view<'a>(
        &'a self,
        cx: &'a Cx,
        have: ViewVersion,
    ) -> LocalBoxFuture<'a, Result<Option<ClusterView>, String>>;

    /// Asks a chain's head to remove chunks of files.
    fn remove_chunks<'a>(
        &'a self,
        cx: &'a Cx,
        head: Addr<Storage>,
        message: RemoveChunks,
    ) -> LocalBoxFuture<'a, Result<Result<Removed, StorageError>, AskError>>;

    /// Asks a serving target what it has of a file.
    fn file_extents<'a>(
        &'a self,
        cx: &'a Cx,
        target: Addr<Storage>,
        message: FileExtents,
    ) -> LocalBoxFuture<'a, Result<Result<Extents, StorageError>, AskError>>;

    /// Asks a serving target which files it has chunks of.
    fn list_inodes<'a>(
        &'a self,
        cx: &'a Cx,
        target: Addr<Storage>,
        message: ListInodes,
    ) -> LocalBoxFuture<'a, Result<Result<Vec<InodeId>, StorageError>, AskError>>;
}

/// The cluster itself.
pub struct Cluster {
    pub agent: Addr<Agent>,
}

impl Outside for Cluster {
    fn view<'a>(
        &'a self,
        cx: &'a Cx,
        have: ViewVersion,
    ) -> LocalBoxFuture<'a, Option<ClusterView>> {
        Box::pin(async move {
            cx.ask(self.agent, GetView { have, fresh: false }).await.unwrap_or_else(|why| {
                tracing::debug!("no routing from the agent: {why}");
                None
            })
        })
    }

    fn fresh_view<'a>(
        &'a self,
        cx: &'a Cx,
        have: ViewVersion,
    ) -> LocalBoxFuture<'a, Result<Option<ClusterView>, String>> {
        Box::pin(async move {
            let begun = cx.now();
            let limited = cx.within(FRESH_MAX);
            let news = limited.ask(self.agent, GetView { have, fresh: true }).await;
            let news = news.map_err(|why| format!("no routing from the agent: {why}"))?;
            // An agent that cannot reach the primary tries until the end of the request, and then
            // answers with what it has.
            match cx.now().since(begun) + FRESH_MARGIN < FRESH_MAX {
                true => Ok(news),
                false => Err("the primary mgmtd does not answer".into()),
            }
        })
    }

    fn remove_chunks<'a>(
        &'a self,
        cx: &'a Cx,
        head: Addr<Storage>,
        message: RemoveChunks,
    ) -> LocalBoxFuture<'a, Result<Result<Removed, StorageError>, AskError>> {
        Box::pin(cx.ask(head, message))
    }

    fn file_extents<'a>(
        &'a self,
        cx: &'a Cx,
        target: Addr<Storage>,
        message: FileExtents,
    ) -> LocalBoxFuture<'a, Result<Result<Extents, StorageError>, AskError>> {
        Box::pin(cx.ask(target, message))
    }

    fn list_inodes<'a>(
        &'a self,
        cx: &'a Cx,
        target: Addr<Storage>,
        message: ListInodes,
    ) -> LocalBoxFuture<'a, Result<Result<Vec<InodeId>, StorageError>, AskError>> {
        Box::pin(cx.ask(target, message))
    }
}

/// Hands out layouts, round robin over the newest version of one chain table.
pub struct Placement {
    pub view: ClusterView,
    chunk_size: u32,
    stripe: u32,
    table: u32,
    next: u32,
}

impl Placement {
    pub fn new(view: ClusterView, chunk_size: u32, stripe: u32, table: u32) -> Placement {
        assert!(chunk_size > 0 && stripe > 0, "a file has chunks on at least one chain");
        Placement { view, chunk_size, stripe, table, next: 0 }
    }

    /// Takes a view that is newer than what is here.
    pub fn learn(&mut self, view: ClusterView) {
        if view.version > self.view.version {
            self.view = view;
        }
    }

    /// The next file's layout; `None` when the routing has no such table.
    pub fn layout(&mut self) -> Option<Layout> {
        let versions = self.view.routing.tables.iter().filter(|t| t.id == self.table);
        let table = versions.max_by_key(|t| t.version)?;
        let length = u32::try_from(table.chains.len()).ok().filter(|n| *n > 0)?;
        let count = self.stripe.min(length);
        let base = self.next % length;
        // One on, however wide the stripe: small files have their only chunk on the first chain.
        self.next = (base + 1) % length;
        let (table, table_version) = (table.id, table.version);
        let stripes = Stripes::Range { table, table_version, base, count, seed: 0 };
        Some(Layout { chunk_size: self.chunk_size, stripes })
    }

    pub fn no_table(&self) -> MetaError {
        MetaError::Unavailable(format!(
            "chain table {} is empty or not known yet: is a storage node up, are chains created?",
            self.table
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::layout::chains_of;
    use crate::proto::ids::ChainId;
    use crate::proto::mgmtd::{ChainTable, Routing};

    fn view(version: u32, chains: u32) -> ClusterView {
        let chains = (1..=chains).map(ChainId).collect();
        let tables = vec![ChainTable { id: 1, version, chains }];
        ClusterView {
            version: ViewVersion(u64::from(version)),
            routing: Arc::new(Routing { tables, ..Routing::default() }),
            ..ClusterView::default()
        }
    }

    /// Goal: neighbours begin on neighbouring chains, also when a stripe is as wide as the table.
    /// Regression (a newcomer): then all files began on one chain, and small ones were all there.
    #[test]
    fn files_go_round_the_table() {
        let mut wide = Placement::new(view(1, 3), 1 << 20, 16, 1);
        let mut first = || chains_of(&view(1, 3).routing, &wide.layout().unwrap()).unwrap()[0].0;
        assert_eq!([first(), first(), first(), first()], [1, 2, 3, 1]);

        let mut place = Placement::new(ClusterView::default(), 1 << 20, 2, 1);
        assert_eq!(place.layout(), None);
        place.learn(view(1, 3));
        let chains = |layout: Layout| chains_of(&view(1, 3).routing, &layout).unwrap();
        let mut next = || chains(place.layout().unwrap()).iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!([next(), next(), next()], [[1, 2], [2, 3], [3, 1]]);
        place.learn(view(2, 1));
        place.learn(view(1, 3));
        let layout = place.layout().unwrap();
        assert_eq!(chains_of(&view(2, 1).routing, &layout), Ok(vec![ChainId(1)]));
        assert!(chains_of(&view(1, 3).routing, &layout).is_err());
    }
}
