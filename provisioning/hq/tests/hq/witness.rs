// SPDX-License-Identifier: Apache-2.0
//! The witness: two servers that cannot talk, one record.

use crate::support::{Hq, Server, both, problem};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};

fn publish(by: NodeSlot, epoch: u64) -> WitnessSwap {
    WitnessSwap {
        request_id: epoch,
        by,
        expect_epoch: Epoch(0),
        epoch: Epoch(epoch),
        in_sync: both(),
        winner: None,
    }
}

fn claim(by: NodeSlot, at: u64, request_id: u64) -> WitnessSwap {
    WitnessSwap {
        request_id,
        by,
        expect_epoch: Epoch(at),
        epoch: Epoch(at + 1),
        in_sync: [by].into(),
        winner: Some(by),
    }
}

async fn swap(hq: &Hq, server: &Server, request: &WitnessSwap) -> WitnessAnswer {
    let request = server.client(hq).post(hq.url("/v1/agent/witness")).json(request);
    request.send().await.expect("HQ answers").json().await.expect("an answer")
}

async fn record(hq: &Hq, server: &Server) -> WitnessRecord {
    let request = server.client(hq).get(hq.url("/v1/agent/witness"));
    request.send().await.expect("HQ answers").json().await.expect("a record")
}

#[tokio::test]
async fn of_two_claims_at_once_exactly_one_wins_and_a_restart_does_not_forget_it() {
    let (mut hq, codes) = Hq::with_site().await;
    let [a, b] = hq.enrol_pair(&codes).await;
    for round in 0..8_u64 {
        let at = round * 2 + 1;
        assert!(swap(&hq, &a, &publish(NodeSlot::A, at)).await.granted);
        let (claim_a, claim_b) =
            (claim(NodeSlot::A, at, 100 + at), claim(NodeSlot::B, at, 200 + at));
        let (from_a, from_b) = tokio::join!(swap(&hq, &a, &claim_a), swap(&hq, &b, &claim_b));
        assert!(from_a.granted ^ from_b.granted, "round {round}: {from_a:?} {from_b:?}");
        let winner = if from_a.granted { NodeSlot::A } else { NodeSlot::B };
        assert_eq!(from_a.record.winner, Some(winner));
        assert_eq!(from_b.record.winner, Some(winner));
        if round % 4 == 3 {
            hq = hq.restart().await;
            assert_eq!(record(&hq, &a).await.winner, Some(winner));
            // The loser's retry and the winner's retry get what they got before.
            assert_eq!(swap(&hq, &a, &claim_a).await.granted, winner == NodeSlot::A);
            assert_eq!(swap(&hq, &b, &claim_b).await.granted, winner == NodeSlot::B);
        }
    }
}

#[tokio::test]
async fn a_server_cannot_speak_for_its_peer() {
    let (hq, codes) = Hq::with_site().await;
    let [a, b] = hq.enrol_pair(&codes).await;
    assert!(swap(&hq, &a, &publish(NodeSlot::A, 1)).await.granted);
    let request = b.client(&hq).post(hq.url("/v1/agent/witness")).json(&claim(NodeSlot::A, 1, 5));
    problem(request.send().await.expect("answer"), 403, "other_slot").await;
    assert_eq!(record(&hq, &a).await.winner, None);
}

#[tokio::test]
async fn a_lost_witness_file_comes_back_with_another_incarnation_and_grants_nothing() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    assert!(swap(&hq, &a, &publish(NodeSlot::A, 5)).await.granted);
    let before = record(&hq, &a).await;
    for name in ["witness.db", "witness.db-wal", "witness.db-shm"] {
        let _ = std::fs::remove_file(hq.folder().at(name));
    }
    hq.clock.shift_ms(10);
    let hq = hq.restart().await;
    let after = record(&hq, &a).await;
    assert_ne!(after.incarnation, before.incarnation);
    assert!(!swap(&hq, &a, &claim(NodeSlot::A, 5, 9)).await.granted);
}

#[tokio::test]
async fn a_backup_put_back_is_another_incarnation_and_does_not_grant_again() {
    let (hq, codes) = Hq::with_site().await;
    let [a, b] = hq.enrol_pair(&codes).await;
    assert!(swap(&hq, &a, &publish(NodeSlot::A, 5)).await.granted);
    let hq = hq.restart().await;
    let before = record(&hq, &a).await;
    assert_eq!((before.epoch, before.version), (Epoch(5), 1), "a restart is no restoration");
    let (own, backup) = (hq.folder().at("witness.db"), hq.folder().at("backup.db"));
    // HQ is at rest, and SQLite's log may hold what the file does not.
    let hq = hq.restart().await;
    std::fs::copy(&own, &backup).expect("backed up");
    let wal = std::fs::read(hq.folder().at("witness.db-wal")).unwrap_or_default();
    assert!(swap(&hq, &a, &claim(NodeSlot::A, 5, 9)).await.granted);
    for name in ["witness.db", "witness.db-wal", "witness.db-shm"] {
        let _ = std::fs::remove_file(hq.folder().at(name));
    }
    std::fs::rename(&backup, &own).expect("put back");
    std::fs::write(hq.folder().at("witness.db-wal"), wal).expect("put back");
    let hq = hq.restart().await;
    let after = record(&hq, &b).await;
    assert_ne!(after.incarnation, before.incarnation);
    assert_eq!(after.epoch, Epoch(0));
    assert!(!swap(&hq, &b, &claim(NodeSlot::B, 5, 10)).await.granted, "A was granted it");
    assert!(swap(&hq, &b, &publish(NodeSlot::B, 7)).await.granted, "the pair registers again");
}

#[tokio::test]
async fn the_operator_sees_the_record() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    assert!(swap(&hq, &a, &publish(NodeSlot::A, 4)).await.granted);
    let seen = hq.operator_get("/v1/sites/kassel/witness").await;
    assert_eq!((seen["epoch"].as_u64(), seen["winner"].is_null()), (Some(4), true));
}

// Two threads: this one waits for the other HQ's first line, and must not hold up a write that the
// HQ of this process has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_outlives_hq_killed_right_after_its_answer() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let (hq, codes) = Hq::with_site().await;
    let [a, b] = hq.enrol_pair(&codes).await;
    assert!(swap(&hq, &a, &publish(NodeSlot::A, 1)).await.granted);
    for round in 0..3_u64 {
        let at = round + 1;
        let mut served = Command::new(env!("CARGO_BIN_EXE_forecourt-hq"))
            .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
            .arg(hq.folder().root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("forecourt-hq runs");
        let mut line = String::new();
        let out = served.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        let claim = claim(NodeSlot::A, at, 50 + at);
        let request = a.client(&hq).post(format!("{url}/v1/agent/witness")).json(&claim);
        let answer: WitnessAnswer =
            request.send().await.expect("HQ answers").json().await.expect("an answer");
        served.kill().expect("killed");
        served.wait().expect("waited");
        assert!(answer.granted, "round {round}: {answer:?}");
        // The HQ of this process reads the same files.
        let now = record(&hq, &b).await;
        assert_eq!((now.winner, now.epoch), (Some(NodeSlot::A), Epoch(at + 1)));
        assert!(!swap(&hq, &b, &super::witness::claim(NodeSlot::B, at + 1, 70 + at)).await.granted);
    }
}
