// SPDX-License-Identifier: Apache-2.0
//! The record on disk: power losses, damage, copies put back.

use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName};
use provisioning_protocol::witness::WitnessSwap;
use provisioning_witness::store::{Found, Store, StoreError};
use std::path::Path;

fn site() -> SiteName {
    SiteName::new("oslo").unwrap()
}

fn open(folder: &Path) -> Store {
    Store::open(folder, &site()).unwrap()
}

fn publish(epoch: u64) -> WitnessSwap {
    WitnessSwap {
        request_id: epoch,
        by: NodeSlot::A,
        expect_epoch: Epoch(0),
        epoch: Epoch(epoch),
        in_sync: NodeSlot::BOTH.into(),
        winner: None,
    }
}

fn claim(by: NodeSlot, at: u64) -> WitnessSwap {
    WitnessSwap {
        request_id: 100 + at,
        by,
        expect_epoch: Epoch(at),
        epoch: Epoch(at + 1),
        in_sync: [by].into(),
        winner: Some(by),
    }
}

#[test]
fn a_grant_outlives_a_restart_and_its_retry_gets_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.found(), Found::New);
    assert!(store.swap(&publish(1)).unwrap().granted);
    let answer = store.swap(&claim(NodeSlot::A, 1)).unwrap();
    drop(store);
    let mut store = open(dir.path());
    assert_eq!((store.found(), store.record().winner), (Found::Whole, Some(NodeSlot::A)));
    assert_eq!(store.swap(&claim(NodeSlot::A, 1)).unwrap(), answer);
    assert!(!store.swap(&claim(NodeSlot::B, 2)).unwrap().granted);
}

#[test]
fn at_whatever_byte_a_write_is_cut_the_states_before_it_stand() {
    let mut missing = 1;
    loop {
        // A new log for each: a line put into another file is a copy.
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("witness.log");
        let mut store = open(dir.path());
        store.swap(&publish(1)).unwrap();
        let incarnation = store.record().incarnation;
        let before = std::fs::metadata(&log).unwrap().len();
        store.swap(&claim(NodeSlot::A, 1)).unwrap();
        drop(store);
        let after = std::fs::metadata(&log).unwrap().len();
        if after - missing < before {
            break;
        }
        std::fs::OpenOptions::new()
            .write(true)
            .open(&log)
            .unwrap()
            .set_len(after - missing)
            .unwrap();
        let store = open(dir.path());
        let found = (store.record().version, store.record().incarnation);
        assert_eq!(found, (1, incarnation), "{missing} bytes missing");
        missing += 1;
    }
    assert!(missing > 100);
}

#[test]
fn damage_and_loss_make_another_incarnation_that_grants_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("witness.log");
    let mut store = open(dir.path());
    store.swap(&publish(1)).unwrap();
    let incarnation = store.record().incarnation;
    drop(store);
    let whole = std::fs::read(&log).unwrap();
    let at = whole.len();
    for byte in [3, at / 2, at - 3] {
        let mut bad = whole.clone();
        bad[byte] ^= 1;
        std::fs::write(&log, bad).unwrap();
        let mut store = open(dir.path());
        assert_eq!(store.found(), Found::Damaged, "byte {byte}");
        assert_ne!(store.record().incarnation, incarnation);
        assert!(!store.swap(&claim(NodeSlot::A, 1)).unwrap().granted);
    }
    std::fs::remove_file(&log).unwrap();
    let mut store = open(dir.path());
    assert_ne!(store.record().incarnation, incarnation);
    assert!(!store.swap(&claim(NodeSlot::A, 1)).unwrap().granted);
}

#[test]
fn a_copy_put_back_is_another_incarnation_and_grants_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for whole_folder in [true, false] {
        put_back(dir.path(), whole_folder);
    }
}

fn put_back(dir: &Path, whole_folder: bool) {
    let (own, copy) = (dir.join("record"), dir.join("backup"));
    drop(std::fs::remove_dir_all(&own));
    let mut store = open(&own);
    store.swap(&publish(1)).unwrap();
    let incarnation = store.record().incarnation;
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(own.join("witness.log"), copy.join("witness.log")).unwrap();
    store.swap(&claim(NodeSlot::A, 1)).unwrap();
    drop(store);
    if whole_folder {
        std::fs::remove_dir_all(&own).unwrap();
        std::fs::rename(&copy, &own).unwrap();
    } else {
        std::fs::rename(copy.join("witness.log"), own.join("witness.log")).unwrap();
        std::fs::remove_dir(&copy).unwrap();
    }
    let mut store = open(&own);
    assert_eq!(store.found(), Found::Restored);
    assert_ne!(store.record().incarnation, incarnation);
    assert!(!store.swap(&claim(NodeSlot::B, 1)).unwrap().granted, "the last grant was forgotten");
}

#[test]
fn the_log_stays_short() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for epoch in 1..=1_500 {
        assert!(store.swap(&publish(epoch)).unwrap().granted);
    }
    drop(store);
    let lines = std::fs::read_to_string(dir.path().join("witness.log")).unwrap().lines().count();
    assert!(lines < 1_000, "{lines}");
    assert_eq!(open(dir.path()).record().epoch, Epoch(1_500));
}

#[test]
fn one_process_and_one_site_to_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(Store::open(dir.path(), &site()), Err(StoreError::Taken(_))));
    drop(store);
    let other = SiteName::new("kassel").unwrap();
    assert!(matches!(Store::open(dir.path(), &other), Err(StoreError::OtherSite { .. })));
}
