//! The cluster manager: being written.

use t3fs_runtime::{Actor, Ask, Cx, Handle, Me};

use crate::proto::mgmtd::*;

pub struct Mgmtd;

impl Actor for Mgmtd {
    type Msg = MgmtdMsg;
}

impl Handle<Register> for Mgmtd {
    async fn handle(_: &Me<Self>, _: Register, _: &Cx) -> <Register as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}

impl Handle<GetRouting> for Mgmtd {
    async fn handle(_: &Me<Self>, _: GetRouting, _: &Cx) -> <GetRouting as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}

impl Handle<CreateChains> for Mgmtd {
    async fn handle(_: &Me<Self>, _: CreateChains, _: &Cx) -> <CreateChains as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}

impl Handle<OpenSession> for Mgmtd {
    async fn handle(_: &Me<Self>, _: OpenSession, _: &Cx) -> <OpenSession as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}

impl Handle<CloseSession> for Mgmtd {
    async fn handle(_: &Me<Self>, _: CloseSession, _: &Cx) -> <CloseSession as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}

impl Handle<ExtendSession> for Mgmtd {
    async fn handle(
        _: &Me<Self>,
        _: ExtendSession,
        _: &Cx,
    ) -> <ExtendSession as Ask<Mgmtd>>::Reply {
        std::future::pending().await
    }
}
