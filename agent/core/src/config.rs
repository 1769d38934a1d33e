// SPDX-License-Identifier: Apache-2.0
//! The times and names a core is made with.

use provisioning_protocol::ids::NodeSlot;

/// Times of the rules. The defaults are those of the appliance; each says where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// This server's place.
    pub slot: NodeSlot,
    /// Random at each start of the agent: makes witness request ids unlike earlier ones.
    pub nonce: u64,
    /// Peer message at least this often.
    pub heartbeat_ms: u64,
    /// A path on which nothing came for this long is not heard (five heartbeats).
    pub heard_ms: u64,
    /// Without volumes nothing can be lost: only then is a silent peer gone.
    pub heard_idle_ms: u64,
    /// Listen this long after a start before anything is decided.
    pub listen_ms: u64,
    /// Try the other path for this long before one side gives way (R1).
    pub switch_ms: u64,
    /// The side with less to run waits this long before it asks the witness, so that a cut
    /// link leaves VMs where they are.
    pub claim_delay_ms: u64,
    /// Ask the witness again after this long without an answer.
    pub witness_retry_ms: u64,
    /// Read the witness record this often while nothing happens.
    pub witness_poll_ms: u64,
    /// Without an answer from the witness for this long the tie-break leaves HQ (R5).
    pub tie_ms: u64,
    /// vCPUs of a frozen VM are stopped after this long (guests' SCSI timeouts start at 30 s).
    pub pause_ms: u64,
    /// From link loss to the start of the peer's VMs: pause 5 s or lease 8 s + watchdog 10 s +
    /// margin 7 s (R6).
    pub fence_ms: u64,
    /// Recorded SOLO, started alone: look for a higher epoch this long (R9 a).
    pub solo_boot_ms: u64,
    /// Started alone with a peer on record: wait for it this long (R9 b).
    pub cold_boot_ms: u64,
    /// An eviction that takes longer ends in a reset.
    pub evict_ms: u64,
    /// Pause before a failed promotion or VM start is tried again.
    pub retry_ms: u64,
    /// Having had to go on alone so often ...
    pub flap_count: usize,
    /// ... within this long ...
    pub flap_window_ms: u64,
    /// ... keep the peer out of the in-sync set for this long (R12).
    pub flap_guard_ms: u64,
    /// The cable must be well this long before replication goes back to it.
    pub failback_ms: u64,
    /// The pair must be well this long before VMs go back to their homes.
    pub rebalance_ms: u64,
}

impl Config {
    /// The appliance's times.
    #[must_use]
    pub fn new(slot: NodeSlot, nonce: u64) -> Self {
        Self {
            slot,
            nonce,
            heartbeat_ms: 200,
            heard_ms: 1_000,
            heard_idle_ms: 5_000,
            listen_ms: 3_000,
            switch_ms: 5_000,
            claim_delay_ms: 1_500,
            witness_retry_ms: 3_000,
            witness_poll_ms: 10_000,
            tie_ms: 30_000,
            pause_ms: 5_000,
            fence_ms: 25_000,
            solo_boot_ms: 60_000,
            cold_boot_ms: 180_000,
            evict_ms: 20_000,
            retry_ms: 5_000,
            flap_count: 3,
            flap_window_ms: 3_600_000,
            flap_guard_ms: 7_200_000,
            failback_ms: 30_000,
            rebalance_ms: 600_000,
        }
    }
}
