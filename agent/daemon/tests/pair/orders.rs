// SPDX-License-Identifier: Apache-2.0
//! What a person orders at the console, carried out by two agents.

use crate::rig::{Server, agent, healthy, servers, wait, witness};
use agent_daemon::paths::Paths;
use hypervisor_glue::replication::{DiskState, LinkState};
use provisioning_protocol::peer::PeerState;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Gives an order as the console does; whether it was done, and the words.
fn order(server: &Server, line: &str) -> (bool, String) {
    use std::io::{BufRead as _, Write as _};
    let socket = Paths::under(server.dir.path()).operator_socket();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    (answer["done"].as_bool().unwrap(), answer["text"].as_str().unwrap().to_owned())
}

#[test]
fn an_operators_word_is_refused_in_a_pair_and_helps_when_nothing_else_can() {
    const OFF: &str = "{\"order\":\"declare_peer_off\",\"reason\":\"no power\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&b, OFF);
    assert!(!done && text.contains("is heard"), "{text}");
    let (done, text) = order(&b, "{\"order\":\"format_everything\"}\n");
    assert!(!done && text.contains("No such order"), "{text}");
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("suspicion", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.vms.launches().is_empty());
    let (done, text) = order(&b, OFF);
    assert!(done, "{text}");
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    agent_b.kill();
}

/// What the kernel's helper says, and waits for.
fn helper(server: &Server, event: &str) -> String {
    use std::io::{BufRead as _, Write as _};
    let socket = Paths::under(server.dir.path()).helper_socket();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let line = format!("{{\"event\":\"{event}\",\"resource\":\"minor-0\",\"pid\":1}}\n");
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_left_half_copied_goes_on_with_its_older_copy_by_a_persons_word() {
    const OLDER: &str = "{\"order\":\"use_older_data\",\"reason\":\"A burnt\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&b, OLDER);
    assert!(!done && text.contains("is heard"), "{text}");
    let is = |disk: DiskState, link: LinkState| {
        b.replication.change(0, |status| (status.disk, status.link) = (disk, link));
    };
    // They part, B gives way, and is connected again to be brought up to date.
    a.replication.cut();
    b.replication.cut();
    let made = |call: &str| b.replication.calls().iter().rposition(|made| made == call);
    wait("B connected anew", &[&agent_a, &agent_b], || {
        agent_b.hub.server().pair.in_sync.len() == 1 && made("connect 0") > made("outdate 0")
    });
    is(DiskState::Outdated, LinkState::Negotiating);
    assert_eq!(helper(&b, "before-resync-target"), "{\"exit\":0}\n");
    is(DiskState::Inconsistent, LinkState::SyncTarget);
    agent_a.kill();
    a.replication.change(0, |status| status.link = LinkState::StandAlone);
    b.replication.cut();
    let offered = || agent_b.hub.local().older_data.is_some();
    wait("the copy offered", &[&agent_b], || offered() && agent_b.state() == Some(PeerState::Wait));
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.vms.launches().is_empty(), "half a copy runs");
    let (done, text) = order(&b, OLDER);
    assert!(done, "{text}");
    wait("the VM on B", &[&agent_b], || b.vms.launches().len() == 1);
    let calls = b.replication.calls();
    let at = |call: &str| calls.iter().rposition(|made| made == call).expect("called");
    assert!(at("start_over 0") < at("adopt 0") && at("adopt 0") < at("primary 0"), "{calls:?}");
    let events = agent_b.hub.local().events;
    let bound = events.iter().find(|event| event.code == "put_back").expect("recorded");
    assert!(bound.text.contains("everything up to 20"), "{}", bound.text);
    agent_b.kill();
}

/// A server that was thought to be off comes back with other data: neither takes the other's before a person
/// gives one up.
#[test]
fn of_two_servers_whose_data_differs_one_is_copied_anew_by_a_persons_word() {
    const OFF: &str = "{\"order\":\"declare_peer_off\",\"reason\":\"looks dead\"}\n";
    const GIVE_UP: &str = "{\"order\":\"give_up_data\",\"reason\":\"B has the newer work\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&a, GIVE_UP);
    assert!(!done && text.contains("has not diverged"), "{text}");
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("B frozen", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    wait("the word taken", &[&agent_b], || order(&b, OFF).0);
    wait("the VM on B", &[&agent_b], || b.vms.launches().len() == 1);
    // A runs all the while; its kernel finds out when they meet.
    a.replication.diverge();
    for side in [&a, &b] {
        side.replication.change(0, |status| status.link = LinkState::StandAlone);
    }
    let agent_a = agent(&a, &witness, 3 << 20);
    wait("A out of it", &[&agent_a, &agent_b], || agent_a.state() == Some(PeerState::Wait));
    for side in [&a, &b] {
        assert_eq!(helper(side, "split-brain"), "{\"exit\":0}\n");
    }
    wait("a choice for a person", &[&agent_a, &agent_b], || agent_a.hub.local().diverged);
    let made = |call: &str| a.replication.calls().iter().rposition(|made| made == call);
    assert_eq!(made("start_over 0"), None, "nobody asked");
    let (done, text) = order(&a, GIVE_UP);
    assert!(done, "{text}");
    assert!(made("start_over 0") < made("attach 0") && made("attach 0") < made("connect 0"));
    let told = |code: &str| agent_a.hub.local().events.iter().any(|event| event.code == code);
    assert!(told("given_up") && !told("copy_not_kept"));
    wait("connected", &[&agent_a, &agent_b], || {
        !agent_a.hub.local().diverged
            && b.replication.calls().iter().any(|call| call == "connect 0")
    });
    assert_eq!(b.vms.launches().len(), 1, "B's VM runs on");
    assert!(!b.replication.calls().iter().any(|call| call == "start_over 0"), "B keeps its data");
    agent_a.kill();
    agent_b.kill();
}
