// SPDX-License-Identifier: Apache-2.0
//! What no honest server ever writes or says: such a state or message is as good as none.

use crate::state::DurableState;
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::PeerBody;

/// Epochs and counters rise by ones; JSON numbers of any reader are exact up to here, and nothing
/// above can overflow by going on.
const COUNT_MAX: u64 = 1 << 53;

impl DurableState {
    /// Whether this state can have been written by the server in `slot`: not another server's,
    /// not torn in its sense, not from a far future.
    #[must_use]
    pub fn is_sound(&self, slot: NodeSlot) -> bool {
        let alone = self.in_sync.len() == 1 && self.votes();
        self.node == slot && self.solo == alone && self.epoch < Epoch(COUNT_MAX)
    }
}

/// Whether a message can be an honest peer's.
pub(crate) fn message_is_sound(seq: u64, body: &PeerBody) -> bool {
    seq < COUNT_MAX && body.epoch < Epoch(COUNT_MAX)
}
