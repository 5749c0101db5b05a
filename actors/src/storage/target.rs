//! A storage target: being written.

use t3fs_runtime::{Actor, Ask, Cx, Handle, Me};

use crate::proto::storage::*;

pub struct Storage;

impl Actor for Storage {
    type Msg = StorageMsg;
}

impl Handle<UpdateChunk> for Storage {
    async fn handle(_: &Me<Self>, _: UpdateChunk, _: &Cx) -> <UpdateChunk as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ReadChunk> for Storage {
    async fn handle(_: &Me<Self>, _: ReadChunk, _: &Cx) -> <ReadChunk as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<RemoveChunks> for Storage {
    async fn handle(
        _: &Me<Self>,
        _: RemoveChunks,
        _: &Cx,
    ) -> <RemoveChunks as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ListChunks> for Storage {
    async fn handle(_: &Me<Self>, _: ListChunks, _: &Cx) -> <ListChunks as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ScrubChunks> for Storage {
    async fn handle(_: &Me<Self>, _: ScrubChunks, _: &Cx) -> <ScrubChunks as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<GetSpace> for Storage {
    async fn handle(_: &Me<Self>, _: GetSpace, _: &Cx) -> <GetSpace as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}

impl Handle<NewRouting> for Storage {
    async fn handle(_: &Me<Self>, _: NewRouting, _: &Cx) -> <NewRouting as Ask<Storage>>::Reply {
        std::future::pending().await
    }
}
