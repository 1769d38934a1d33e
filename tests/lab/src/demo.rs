// SPDX-License-Identifier: Apache-2.0
//! The main job, start to end, with a narrator.

use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::failover::{self, Failover};
use crate::server::BOOT_LIMIT;
use crate::site::{Office, Site};
use crate::timeline::Timeline;
use anyhow::ensure;
use serde::Serialize;
use std::time::Duration;

/// Every number the demo shows; the keys are a promise to scripts.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `ok`.
    pub result: &'static str,
    /// Power-on to both servers enrolled.
    pub enrolled_s: f64,
    /// Power-on to the VM's page answering.
    pub vm_serving_s: f64,
    /// Bytes server A received over the WAN up to then.
    pub wan_bytes_node_a: u64,
    /// Bytes server B received over the WAN up to then.
    pub wan_bytes_node_b: u64,
    /// The failover.
    pub failover: Failover,
    /// Power-on of the killed server to a healthy pair.
    pub resync_s: f64,
    /// How the servers were run.
    pub accel: Accel,
}

/// Runs the demo up to the healthy pair at the end; the site stays up with the value.
pub fn run(artifacts: &Artifacts, timeline: &Timeline) -> anyhow::Result<(Report, Site)> {
    let mut site = found(artifacts, timeline)?;
    let _events = site.hq.follow_events()?;
    let start_s = timeline.now_s();
    let (enrolled_s, vm_serving_s) = boot(&mut site)?;
    let [wan_a, wan_b] = ["a", "b"].map(|name| site.wan_bytes(name).received);
    timeline.note("wan", format!("A received {wan_a} bytes, B {wan_b}"));
    let (failover, victim) = failover::kill_host(&mut site)?;
    ensure!(failover.lost_writes == 0, "{} acknowledged writes are lost", failover.lost_writes);
    let resync_s = failover::return_of(&mut site, victim)?;
    let report = Report {
        result: "ok",
        enrolled_s: enrolled_s - start_s,
        vm_serving_s: vm_serving_s - start_s,
        wan_bytes_node_a: wan_a,
        wan_bytes_node_b: wan_b,
        failover,
        resync_s,
        accel: site.accel,
    };
    Ok((report, site))
}

fn found(artifacts: &Artifacts, timeline: &Timeline) -> anyhow::Result<Site> {
    let office = Office::open(artifacts, "demo", timeline)?;
    timeline.note("hq", format!("dashboard at {}/", office.hq.url()));
    office.make_keys()?;
    timeline.note("hq", "trusts a root whose keys lie offline");
    office.publish_template()?;
    timeline.note("hq", "template parts-counter built, signed and published");
    let codes = office.define_site()?;
    timeline.note("hq", format!("site kassel: claim code for A {}, for B {}", codes[0], codes[1]));
    let site = office.into_site(codes)?;
    timeline.note("lab", format!("servers run on {}", site.accel.name()));
    Ok(site)
}

fn boot(site: &mut Site) -> anyhow::Result<(f64, f64)> {
    site.a.power_on()?;
    site.b.power_on()?;
    site.a.wait_booted(BOOT_LIMIT)?;
    site.b.wait_booted(BOOT_LIMIT)?;
    let enrolled_s = site.wait_enrolled(Duration::from_secs(180))?;
    let vm_serving_s = site.wait_page(Duration::from_secs(600))?;
    site.timeline.note("lab", format!("its page: http://127.0.0.1:{}/", site.page.port));
    site.wait_paired(Duration::from_secs(180))?;
    Ok((enrolled_s, vm_serving_s))
}

impl Report {
    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let seconds = [
            ("power-on to both servers enrolled", self.enrolled_s),
            ("power-on to the VM's page", self.vm_serving_s),
            ("kill to peer's loss noticed", self.failover.detect_s),
            ("kill to grant", self.failover.grant_s),
            ("kill to volumes promoted", self.failover.promote_s),
            ("kill to VM started", self.failover.started_s),
            ("kill to writes acknowledged again", self.failover.serving_s),
            ("power-on to healthy pair again", self.resync_s),
        ];
        let mut text = String::new();
        for (name, value) in seconds {
            text += &format!("  {name:<36} {value:>9.2} s\n");
        }
        let counts = [
            ("bytes over the WAN, server A", self.wan_bytes_node_a),
            ("bytes over the WAN, server B", self.wan_bytes_node_b),
            ("writes acknowledged", self.failover.acked_writes as u64),
            ("acknowledged writes lost", self.failover.lost_writes as u64),
        ];
        for (name, value) in counts {
            text += &format!("  {name:<36} {value:>9}\n");
        }
        text + &format!("  {:<36} {:>9}\n", "servers run on", self.accel.name())
    }
}
