// SPDX-License-Identifier: Apache-2.0
//! Sites as operators see them, put together from what HQ stores.

use crate::app::App;
use crate::clock::unsigned;
use crate::db::devices::Device;
use crate::db::{blueprints, devices, sites};
use provisioning_protocol::ids::{DeviceId, NodeSlot, SiteName, VmName};
use provisioning_protocol::operator::{BlueprintVm, ServerView, SiteView, VmView};
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::witness::WitnessState;

/// All sites by name, or one.
///
/// # Errors
/// Whatever the database says.
pub async fn sites(app: &App, only: Option<&SiteName>) -> Result<Vec<SiteView>, sqlx::Error> {
    let pool = app.db.reader();
    let stored = match only {
        Some(name) => sites::get(pool, name).await?.into_iter().collect(),
        None => sites::list(pool).await?,
    };
    let devices = devices::list(pool).await?;
    let plans = blueprints::list(pool).await?;
    let mut records = app.witness.all().await?;
    let now_ms = app.clock.now_ms();
    let mut views = Vec::with_capacity(stored.len());
    for site in stored {
        let own: Vec<&Device> = devices.iter().filter(|d| d.site == site.name).collect();
        let planned = plans.iter().find(|plan| plan.name == site.blueprint);
        let vms = planned.map(|plan| plan.vms.as_slice()).unwrap_or_default();
        let record = records.remove(site.name.as_str());
        views.push(SiteView {
            servers: NodeSlot::BOTH.map(|slot| server(slot, &own, now_ms)).into(),
            vms: vms.iter().map(|vm| vm_view(vm, &own)).collect(),
            witness: record.unwrap_or_else(|| WitnessState::new(0).record),
            name: site.name,
            blueprint: site.blueprint,
            revision: site.revision,
            drained: site.drained,
            rebalance: site.rebalance,
        });
    }
    Ok(views)
}

fn server(slot: NodeSlot, devices: &[&Device], now_ms: i64) -> ServerView {
    let device = devices.iter().find(|device| device.slot == slot);
    ServerView {
        slot,
        device_id: device.map(|d| DeviceId(d.device_id.clone())),
        serial: device.map(|d| d.serial.clone()).unwrap_or_default(),
        last_seen_age_s: device
            .and_then(|d| d.last_seen_ms)
            .map(|seen| unsigned((now_ms - seen) / 1000)),
        status: device.and_then(|d| d.status.clone()),
    }
}

fn vm_view(vm: &BlueprintVm, devices: &[&Device]) -> VmView {
    let runs = devices.iter().filter_map(|d| Some((d, phase(d, &vm.name)?)));
    let latest = runs
        .filter(|(_, phase)| matches!(phase, VmPhase::Running | VmPhase::Healthy | VmPhase::Frozen))
        .max_by_key(|(device, _)| device.last_seen_ms);
    VmView {
        name: vm.name.clone(),
        template: vm.template.clone(),
        runs_on: latest.map(|(device, _)| device.slot),
        healthy: latest.is_some_and(|(_, phase)| phase == VmPhase::Healthy),
    }
}

/// What a server last said of a VM.
fn phase(device: &Device, vm: &VmName) -> Option<VmPhase> {
    let status = device.status.as_ref()?;
    status.vms.iter().find(|status| status.name == *vm).map(|status| status.phase)
}
