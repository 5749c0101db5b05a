//! What a host and this program have for RDMA.

use t3fs_transport::FabricUse;
use t3fs_transport::rdma::{DeviceReport, Devices};

use super::view::{HostReport, PortReport};
use crate::fabric::FabricPlan;

/// What this host and this program have.
pub fn host(plan: &FabricPlan) -> HostReport {
    let before = plan.devices.as_ref().map(|d| d.report()).unwrap_or_default();
    let now = plan.devices.as_ref().map(|_| Devices::find(&plan.filter));
    let now = now.as_ref().map(Devices::report).unwrap_or_default();
    HostReport {
        built_with_rdma: cfg!(feature = "rdma"),
        fabric: match plan.wanted {
            FabricUse::Auto => "auto".into(),
            FabricUse::Tcp => "tcp".into(),
            FabricUse::Rdma => "rdma".into(),
        },
        why_not_rdma: plan.why_not_rdma(),
        device_filter: plan.filter.clone(),
        devices: devices(&before, &now),
    }
}

/// The devices as they are, with what is otherwise than when the process looked.
fn devices(before: &[DeviceReport], now: &[DeviceReport]) -> Vec<PortReport> {
    let same = |a: &DeviceReport, b: &DeviceReport| (&a.device, a.port) == (&b.device, b.port);
    let device = |d: &DeviceReport, news: String| PortReport {
        name: d.device.clone(),
        port: d.port,
        about: format!("{d}{news}"),
        addresses: d.addresses().iter().map(ToString::to_string).collect(),
        why_not: d.unusable.clone(),
    };
    let here = now.iter().map(|d| {
        let was = before.iter().find(|b| same(b, d)).map(|b| &b.unusable);
        let news = match (was, &d.unusable) {
            (Some(None), Some(_)) => "; it was usable when the process started".into(),
            (Some(Some(why)), None) => {
                format!("; NOT USED: when the process started, {why}; start it again")
            }
            (None, None) => "; NOT USED: not there when the process started; start it again".into(),
            _ => String::new(),
        };
        device(d, news)
    });
    let gone = before.iter().filter(|b| !now.iter().any(|d| same(b, d)));
    here.chain(gone.map(|b| device(b, "; GONE since the process started".into()))).collect()
}
