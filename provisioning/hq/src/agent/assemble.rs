// SPDX-License-Identifier: Apache-2.0
//! Puts a site's desired state together from blueprint, site values, catalogue and numbers.

use crate::clock::unsigned;
use crate::db::{Db, blueprints, bmcs, devices, sites, templates, witness_boxes};
use provisioning_protocol::desired::{Desired, RosterEntry, Secret, VmAssignment};
use provisioning_protocol::ids::{DeviceId, NodeSlot, SiteName};
use provisioning_protocol::operator::BlueprintVm;
use std::collections::BTreeMap;

/// The desired state of a site as the server in `slot` sees it; `None` if there is no such site.
///
/// # Errors
/// Whatever the database says.
pub async fn desired(
    db: &Db,
    name: &SiteName,
    slot: NodeSlot,
    now_ms: i64,
) -> Result<Option<Desired>, sqlx::Error> {
    // One transaction: the revision and what it stands for belong together.
    let mut tx = db.reader().begin().await?;
    let Some(site) = sites::get(&mut *tx, name).await? else {
        return Ok(None);
    };
    let mut roster = Vec::new();
    for slot in NodeSlot::BOTH {
        if let Some(device) = devices::in_slot(&mut *tx, name, slot).await? {
            roster.push(RosterEntry {
                slot,
                device_id: DeviceId(device.device_id),
                wg_public_key: device.wg_public_key,
                lan_addresses: device.lan_addresses,
            });
        }
    }
    let local_witness = witness_boxes::get(&mut *tx, name).await?;
    let peer_bmc = bmcs::get(&mut *tx, name, slot.peer()).await?;
    let blueprint = blueprints::get(&mut *tx, &site.blueprint).await?;
    let mut vms = Vec::new();
    for vm in blueprint.into_iter().flat_map(|blueprint| blueprint.vms) {
        let Some(template) = templates::get(&mut *tx, &vm.template).await? else {
            tracing::warn!(site = %name, vm = %vm.name, template = %vm.template, "not in catalogue");
            continue;
        };
        let Some((index, volumes)) =
            sites::numbers(&mut tx, name, &vm.name, &template.vm.disks).await?
        else {
            tracing::warn!(site = %name, vm = %vm.name, "has no volume numbers");
            continue;
        };
        vms.push(VmAssignment {
            home: home(&vm, index),
            variables: variables(&template.vm.variables, &vm, site.variables.get(&vm.name)),
            name: vm.name,
            template: vm.template,
            volumes,
            index,
        });
    }
    Ok(Some(Desired {
        revision: site.revision,
        server_time_s: unsigned(now_ms / 1000),
        site: site.name,
        slot,
        roster,
        replication_secret: Secret(site.replication_secret),
        vms,
        local_witness,
        peer_bmc,
        drained: site.drained,
        rebalance: site.rebalance,
    }))
}

/// The preferred server: as the blueprint says, else VMs alternate by index.
fn home(vm: &BlueprintVm, index: u32) -> NodeSlot {
    vm.home.unwrap_or(if index.is_multiple_of(2) { NodeSlot::A } else { NodeSlot::B })
}

/// Template defaults, then the blueprint's values, then the site's.
fn variables(
    defaults: &BTreeMap<String, String>,
    vm: &BlueprintVm,
    own: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut all = defaults.clone();
    all.extend(vm.variables.clone());
    all.extend(own.cloned().unwrap_or_default());
    all
}
