//! Metadata: inodes and directory entries as transactions on an ordered key-value store.

pub mod kv;

use t3fs_runtime::{Actor, Ask, Cx, Handle, Me};

use crate::proto::meta::*;

pub struct Meta;

impl Actor for Meta {
    type Msg = MetaMsg;
}

impl Handle<Lookup> for Meta {
    async fn handle(_: &Me<Self>, _: Lookup, _: &Cx) -> <Lookup as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<GetAttr> for Meta {
    async fn handle(_: &Me<Self>, _: GetAttr, _: &Cx) -> <GetAttr as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<SetAttr> for Meta {
    async fn handle(_: &Me<Self>, _: SetAttr, _: &Cx) -> <SetAttr as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ReportWrite> for Meta {
    async fn handle(_: &Me<Self>, _: ReportWrite, _: &Cx) -> <ReportWrite as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<CreateFile> for Meta {
    async fn handle(_: &Me<Self>, _: CreateFile, _: &Cx) -> <CreateFile as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<MakeDir> for Meta {
    async fn handle(_: &Me<Self>, _: MakeDir, _: &Cx) -> <MakeDir as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<MakeSymlink> for Meta {
    async fn handle(_: &Me<Self>, _: MakeSymlink, _: &Cx) -> <MakeSymlink as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ReadLink> for Meta {
    async fn handle(_: &Me<Self>, _: ReadLink, _: &Cx) -> <ReadLink as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<MakeLink> for Meta {
    async fn handle(_: &Me<Self>, _: MakeLink, _: &Cx) -> <MakeLink as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<Unlink> for Meta {
    async fn handle(_: &Me<Self>, _: Unlink, _: &Cx) -> <Unlink as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<RemoveDir> for Meta {
    async fn handle(_: &Me<Self>, _: RemoveDir, _: &Cx) -> <RemoveDir as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<Rename> for Meta {
    async fn handle(_: &Me<Self>, _: Rename, _: &Cx) -> <Rename as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ReleaseHold> for Meta {
    async fn handle(_: &Me<Self>, _: ReleaseHold, _: &Cx) -> <ReleaseHold as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ReadDir> for Meta {
    async fn handle(_: &Me<Self>, _: ReadDir, _: &Cx) -> <ReadDir as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<SyncMeta> for Meta {
    async fn handle(_: &Me<Self>, _: SyncMeta, _: &Cx) -> <SyncMeta as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}

impl Handle<CountInodes> for Meta {
    async fn handle(_: &Me<Self>, _: CountInodes, _: &Cx) -> <CountInodes as Ask<Meta>>::Reply {
        std::future::pending().await
    }
}
