// SPDX-License-Identifier: Apache-2.0
//! Two agents' pair loops: a pair forms, agents and servers die, VMs move.

mod orders;
mod rig;

use agent_core::{Input, Placement};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::witness::WitnessState;
use rig::{
    Agent, FakePower, Server, agent, healthy, knows_witness, servers, wait, witness, witnesses,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn a_pair_forms_and_the_vm_starts_at_home_only() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    assert!(b.vms.launches().is_empty(), "the VM was started twice");
    let status = agent_a.hub.server();
    assert_eq!(status.pair.in_sync.len(), 2);
    assert_eq!(status.pair.paths.len(), 2, "both paths are heard");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_killed_agent_finds_its_vm_running_and_goes_on() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    agent_a.kill();
    let agent_a = agent(&a, &witness, 3 << 20);
    wait("the pair after a restart", &[&agent_a, &agent_b], || {
        agent_a.state() == Some(PeerState::Pair)
    });
    assert_eq!(a.vms.launches().len(), 1, "the VM was started again");
    assert!(b.vms.launches().is_empty(), "the peer took the VM");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_dead_server_s_vm_starts_on_the_other_after_the_witness_agreed() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(agent_b.state(), Some(PeerState::Solo));
    assert_eq!(witness.state.lock().unwrap().record.winner, Some(NodeSlot::B));
    let calls = b.replication.calls();
    assert!(calls.iter().any(|call| call == "primary 0"), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls, ["prepare till", "start till"], "loaded while it waited");
    agent_b.kill();
}

fn place(agents: [&Agent; 2], placement: Placement) {
    for agent in agents {
        agent.pair.inputs.blocking_send(Input::Placement(placement)).unwrap();
    }
}

#[test]
fn a_drained_server_hands_its_vm_over_and_gets_it_back() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let both = [&agent_a, &agent_b];
    place(both, Placement { drained: Some(NodeSlot::A), rebalance: false });
    wait("the VM on B", &both, || b.vms.launches().len() == 1);
    let calls = a.vms.calls();
    assert_eq!(calls.last().map(String::as_str), Some("hand till"), "{calls:?}");
    let calls = a.replication.calls();
    assert_eq!(calls.last().map(String::as_str), Some("secondary 0"), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls, ["prepare till", "receive till", "go on till"], "it never stopped");
    wait("the end of the drain", &both, || {
        let cause = |agent: &Agent| agent.hub.server().pair.cause;
        both.iter().all(|agent| cause(agent).ends_with("Server A is drained."))
    });
    place(both, Placement { drained: None, rebalance: true });
    wait("the VM at home", &both, || a.vms.launches().len() == 2);
    assert_eq!(b.vms.launches().len(), 1);
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_vm_whose_memory_does_not_get_over_is_moved_by_restart() {
    let ((a, b), witness) = (servers(), witness());
    a.vms.break_streams(true);
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let both = [&agent_a, &agent_b];
    place(both, Placement { drained: Some(NodeSlot::A), rebalance: false });
    wait("the VM on B", &both, || b.vms.launches().len() == 1);
    let calls = a.vms.calls();
    assert!(calls.ends_with(&["hand till".into(), "stop till".into()]), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls.last().map(String::as_str), Some("start till"), "not with half a memory");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_dead_server_is_switched_off_by_its_bmc_and_its_vm_starts_at_once() {
    let ((a, mut b), witness) = (servers(), witness());
    let power = Arc::new(FakePower::default());
    b.power = Some(power.clone());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    assert!(power.0.lock().unwrap().is_empty(), "a healthy server was touched");
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(*power.0.lock().unwrap(), ["off"]);
    wait("its return", &[&agent_b], || *power.0.lock().unwrap() == ["off", "on"]);
    let told = agent_b.hub.local().events;
    assert!(told.iter().any(|event| event.text.contains("BMC confirmed twice")), "{told:?}");
    agent_b.kill();
}

#[test]
fn what_a_killed_agent_had_prepared_is_put_away_by_the_next() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    let prepared = |server: &Server| server.vms.calls().iter().any(|call| call == "prepare till");
    wait("the VM prepared", &[&agent_b], || prepared(&b));
    agent_b.kill();
    let agent_b = agent(&b, &witness, 3 << 20);
    wait("it put away", &[&agent_b], || b.vms.calls().iter().any(|call| call == "discard till"));
    assert!(b.vms.launches().is_empty());
    agent_b.kill();
}

#[test]
fn without_a_witness_the_survivor_starts_nothing() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("suspicion", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    // Longer than the fencing wait and several questions.
    std::thread::sleep(Duration::from_secs(5));
    assert!(b.vms.launches().is_empty());
    assert_ne!(agent_b.state(), Some(PeerState::Solo));
    witness.up.store(true, Ordering::SeqCst);
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    agent_b.kill();
}

#[test]
fn with_a_witness_on_site_a_dead_server_s_vm_starts_on_the_other_without_hq() {
    let ((a, b), witness) = (servers(), witnesses(Some(Mutex::new(WitnessState::new(2)))));
    witness.up.store(false, Ordering::SeqCst);
    let (agent_a, agent_b) = (agent(&a, &witness, 1 << 20), agent(&b, &witness, 2 << 20));
    let local = || witness.local.as_ref().unwrap().lock().unwrap().record.clone();
    wait("a pair known on site", &[&agent_a, &agent_b], || {
        local().in_sync.len() == 2 && a.vms.launches().len() == 1 && knows_witness(&b)
    });
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(local().winner, Some(NodeSlot::B));
    assert_eq!(witness.state.lock().unwrap().record.version, 0, "HQ was not asked");
    agent_b.kill();
}
