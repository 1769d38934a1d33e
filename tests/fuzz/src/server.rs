// SPDX-License-Identifier: Apache-2.0
//! What a server reads from its sockets, its claim stick, its screen's file and from HQ.

use agent_console::facts::{Facts, Sight};
use agent_console::machine::Machine;
use agent_console::screen::Screen;
use agent_console::view::{Theme, view};
use agent_daemon::enrol::{chain, jws, voucher};
use agent_daemon::identity::stick;
use agent_daemon::pair::helper::Ask;
use agent_watchdog::message::{Reply, Request};
use provisioning_protocol::console::{OperatorAnswer, OperatorOrder};
use provisioning_protocol::desired::Desired;
use provisioning_protocol::enrol::{Jws, Voucher, VoucherRequest};
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::problem::Problem;
use provisioning_protocol::report::ReportAnswer;
use provisioning_protocol::status::LocalStatus;
use serde::de::DeserializeOwned;
use std::time::Duration;

fn json<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    serde_json::from_slice(data).ok()
}

/// A line on any of the local sockets.
pub fn sockets(data: &[u8]) {
    let _ = (json::<Request>(data), json::<Reply>(data), json::<Ask>(data));
    let _ = (json::<OperatorOrder>(data), json::<OperatorAnswer>(data));
}

/// `status.json`, drawn on screens of several sizes.
pub fn status(data: &[u8]) {
    let Some(status) = json::<LocalStatus>(data) else { return };
    let sight = Sight::Said(Box::new(status));
    let screen = Screen::new(Facts::new(sight, "0.1.0", &Machine::default()));
    for (columns, rows) in [(80, 24), (20, 5), (1, 1)] {
        let _ = view(&screen, Theme::PLAIN, columns, rows);
    }
}

/// `claim.txt` and `owner.json`.
pub fn stick(data: &[u8]) {
    if let Ok(claim) = stick::read_claim(data) {
        assert_eq!(claim.secret().len(), 16);
    }
    if let Some(owner) = json::<OwnerBundle>(data) {
        let _ = stick::check_owner(&owner);
    }
}

/// HQ's voucher (checked as if it were signed, too) and its certificates.
pub fn enrol(data: &[u8]) {
    if let Ok(all) = chain::certificates(data) {
        let _ = chain::order(&all, b"", "x");
    }
    if let Some(signed) = json::<Jws>(data) {
        let _ = jws::verify(&signed, &[vec![4; 65]]);
        let (Some(request), Some(owner)) = (request(), owner()) else { return };
        let _ = voucher::check(&signed, &request, &owner, Duration::from_secs(1));
    }
    let _ = json::<Voucher>(data);
}

fn request() -> Option<VoucherRequest> {
    json(include_bytes!("../data/bodies/voucher-request"))
}

fn owner() -> Option<OwnerBundle> {
    json(include_bytes!("../data/stick/owner"))
}

/// HQ's answers.
pub fn desired(data: &[u8]) {
    if let Some(desired) = json::<Desired>(data) {
        let _ = desired.peer();
    }
    let _ = (json::<ReportAnswer>(data), json::<Problem>(data));
}
