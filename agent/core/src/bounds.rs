// SPDX-License-Identifier: Apache-2.0
//! What no honest server ever writes or says: such a state or message is as good as none.

use crate::state::{DurableState, WitnessMark};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::PeerBody;
use provisioning_protocol::witness::WitnessRecord;

/// Epochs and counters rise by ones; JSON numbers of any reader are exact up to here, and nothing
/// above can overflow by going on.
const COUNT_MAX: u64 = 1 << 53;

fn is_near(epoch: Epoch, count: u64) -> bool {
    epoch < Epoch(COUNT_MAX) && count < COUNT_MAX
}

impl DurableState {
    /// Whether this state can have been written by the server in `slot`: not another server's,
    /// not torn in its sense, not from a far future.
    #[must_use]
    pub fn is_sound(&self, slot: NodeSlot) -> bool {
        let alone = self.in_sync.len() == 1 && self.votes();
        let seen = |mark: WitnessMark| is_near(mark.epoch, mark.version);
        self.node == slot
            && self.solo == alone
            && is_near(self.epoch, 0)
            && self.last_seen.is_none_or(seen)
    }
}

/// Whether a message can be an honest peer's.
pub(crate) fn message_is_sound(seq: u64, body: &PeerBody) -> bool {
    is_near(body.epoch, seq)
}

/// Whether a record can be an honest witness's.
pub(crate) fn record_is_sound(record: &WitnessRecord) -> bool {
    is_near(record.epoch, record.version)
}
