// SPDX-License-Identifier: Apache-2.0
//! A state partition without room: a real one, 64 KiB of memory. Nothing is half done, it is said,
//! and once there is room everything goes on. Mounting needs root; a user namespace will do.

use agent_daemon::durable::causes::Causes;
use agent_daemon::durable::file::{self, Mode};
use agent_daemon::durable::lifetime::Lifetime;
use agent_daemon::durable::slots::Slots;
use agent_daemon::status::Hub;
use agent_daemon::status::hub::Fixed;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
/// Set in the child that runs in namespaces of its own.
const INSIDE: &str = "FORECOURT_TEST_NAMESPACE";

/// A small file system that ends with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.path().join("filler")).unwrap();
        while filler.write_all(&[7; 512]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Mounts it here, or runs this test again where that is allowed: then there is nothing left to do.
fn small(test: &str) -> Option<Small> {
    let dir = tempfile::tempdir().unwrap();
    let options = c"size=64k";
    if mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options).is_ok() {
        return Some(Small(dir));
    }
    assert!(std::env::var_os(INSIDE).is_none(), "no mount even in a namespace of its own");
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe().unwrap());
    let status = again.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    assert!(status.expect("unshare").success(), "{test} failed in a namespace of its own");
    None
}

#[test]
fn a_full_disk_leaves_the_newest_state_and_takes_the_next_one_later() {
    let Some(disk) = small("a_full_disk_leaves_the_newest_state_and_takes_the_next_one_later")
    else {
        return;
    };
    let dir = disk.path();
    let (mut slots, _) = Slots::open(dir, "pair").unwrap();
    slots.store(&[1; 3000]).unwrap();
    slots.store(&[2; 3000]).unwrap();
    disk.fill();
    let longer = [3; 9000];
    let error = slots.store(&longer).unwrap_err();
    assert!(format!("{error:?}").contains("StorageFull"), "{error:?}");
    assert_eq!(Slots::open(dir, "pair").unwrap().1, Some(vec![2; 3000]));
    let left = std::fs::read_dir(dir).unwrap().count();
    assert_eq!(left, 3, "two slots and the filler: what was begun must be gone");
    // One as long as before needs no room.
    slots.store(&[4; 3000]).unwrap();
    assert_eq!(Slots::open(dir, "pair").unwrap().1, Some(vec![4; 3000]));
    disk.make_room();
    slots.store(&longer).unwrap();
    assert_eq!(Slots::open(dir, "pair").unwrap().1, Some(longer.to_vec()));
}

#[test]
fn a_full_disk_keeps_whole_files_whole() {
    let Some(disk) = small("a_full_disk_keeps_whole_files_whole") else { return };
    let path = disk.path().join("ready-vms.json");
    file::replace(&path, &[b'1'; 5000], Mode::Public, true).unwrap();
    let (lifetime, _) = Lifetime::open(disk.path().join("boot.json"), "one");
    lifetime.alive(100).unwrap();
    disk.fill();
    file::replace(&path, &[b'2'; 9000], Mode::Public, true).unwrap_err();
    assert!(lifetime.alive(160).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), [b'1'; 5000]);
    disk.make_room();
    file::replace(&path, &[b'2'; 9000], Mode::Public, true).unwrap();
    lifetime.alive(220).unwrap();
}

#[test]
fn on_a_full_disk_events_still_reach_people_and_it_says_so_until_there_is_room() {
    let name = "on_a_full_disk_events_still_reach_people_and_it_says_so_until_there_is_room";
    let Some(disk) = small(name) else { return };
    let causes = || Causes::new(disk.path().join("causes.jsonl"), &disk.path().join("link"));
    let hub = Hub::new(Fixed::default(), causes());
    // As long as a page: it needs room of its own.
    let long = |word: &str| word.repeat(500 / word.len());
    (0..8).for_each(|_| hub.event("before", long("a")));
    assert!(hub.settle(LIMIT));
    disk.fill();
    for _ in 0..16 {
        hub.event("lost", long("b"));
    }
    assert!(hub.settle(LIMIT));
    let problems = hub.server().problems;
    assert!(problems.iter().any(|words| words.contains("cannot be written")), "{problems:?}");
    assert_eq!(hub.local().events.last().unwrap().code, "lost", "the console shows it");
    assert!(hub.batch().0.iter().any(|event| event.code == "lost"), "HQ gets it");
    disk.make_room();
    hub.event("after", "there is room");
    assert!(hub.settle(LIMIT));
    assert!(hub.server().problems.is_empty());
    let kept = causes().last(100);
    assert!(kept.iter().all(|event| event.text.len() >= 12), "a part of a line was kept");
    assert_eq!(kept.last().unwrap().code, "after");
}

#[test]
fn what_happened_while_hq_was_away_outlives_a_restart_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let hub = || {
        let causes = Causes::new(dir.path().join("causes.jsonl"), &dir.path().join("link"));
        Hub::new(Fixed::default(), causes)
    };
    let first = hub();
    first.event("one", "told");
    let (_, mark) = first.batch();
    first.confirm(mark);
    first.event("two", "HQ is away");
    drop(first);
    let second = hub();
    let codes = |hub: &Hub| hub.batch().0.into_iter().map(|event| event.code).collect::<Vec<_>>();
    assert_eq!(codes(&second), ["two"]);
    assert_eq!(second.local().events.len(), 2, "the console shows what was before the restart");
    second.event("three", "after the restart");
    let (batch, mark) = second.batch();
    assert_eq!(batch.len(), 2);
    second.confirm(mark);
    drop(second);
    assert!(codes(&hub()).is_empty());
}
