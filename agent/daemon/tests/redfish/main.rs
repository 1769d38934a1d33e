// SPDX-License-Identifier: Apache-2.0
//! The BMC client: against BMCs that hang, lie, die, flood and lead astray, and (`tests/redfish/run`)
//! against sushy-tools in front of a real QEMU.

mod emulator;
mod fake;

use agent_daemon::bmc::redfish::{BmcError, Power, Redfish};
use fake::{Fake, Reply, system};
use provisioning_protocol::bmc::Bmc;
use std::time::{Duration, Instant};

const OFF: &str = "Off";
const ON: &str = "On";
const ORDER: &str = "POST /redfish/v1/Systems/1/Actions/ComputerSystem.Reset";

/// Answers readings of the power one after the other, the last one for ever.
fn powers(words: &'static [&'static str]) -> impl Fn(usize, &str, &str) -> Reply + Send + 'static {
    let read = std::sync::atomic::AtomicUsize::new(0);
    move |_, method, path| match (method, path) {
        ("GET", "/redfish/v1/Systems/1") => {
            let at = read.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Reply::json(200, &system(words[at.min(words.len() - 1)]))
        }
        _ => fake::plain(method, path),
    }
}

async fn off(bmc: &Bmc) -> (Result<(), BmcError>, Duration) {
    let start = Instant::now();
    let result = Redfish::new(bmc).expect("a good configuration").off().await;
    (result, start.elapsed())
}

#[tokio::test]
async fn off_counts_only_when_it_was_read_twice_in_a_row() {
    let fake = Fake::start(powers(&[ON, OFF, "PoweringOff", OFF, ON, OFF, OFF])).await;
    let (result, took) = off(&fake.bmc()).await;
    result.expect("off");
    assert!(took >= Duration::from_millis(2_500), "{took:?}");
    assert_eq!(fake.asked().iter().filter(|line| *line == ORDER).count(), 1);
    assert_eq!(fake.bodies(), [r#"{"ResetType":"ForceOff"}"#]);
}

#[tokio::test]
async fn a_server_that_is_off_is_confirmed_and_not_switched() {
    let fake = Fake::start(powers(&[OFF])).await;
    let (result, took) = off(&fake.bmc()).await;
    result.expect("off");
    assert!(took >= Duration::from_millis(500), "the second look is a later one: {took:?}");
    assert!(!fake.asked().contains(&ORDER.to_owned()));
}

#[tokio::test]
async fn a_bmc_that_says_off_once_and_on_again_confirms_nothing() {
    let fake = Fake::start(powers(&[ON, OFF, ON])).await;
    let (result, took) = off(&fake.bmc()).await;
    assert!(matches!(result, Err(BmcError::StaysOn { .. })), "{result:?}");
    assert!(took <= Duration::from_millis(10_500), "{took:?}");
}

#[tokio::test]
async fn a_bmc_that_hangs_or_trickles_is_left_in_time() {
    let try_it = async |reply: Reply| {
        let fake = Fake::start(move |_, _, _| reply.clone()).await;
        off(&fake.bmc()).await
    };
    let (hangs, trickles) = tokio::join!(try_it(Reply::Hang), try_it(Reply::Trickle));
    for (result, took) in [hangs, trickles] {
        assert!(matches!(result, Err(BmcError::Late { .. })), "{result:?}");
        assert!(took <= Duration::from_millis(10_500), "{took:?}");
    }
}

#[tokio::test]
async fn a_bmc_that_dies_after_the_order_confirms_nothing() {
    let fake = Fake::start(|nth, method, path| match nth {
        0..=2 => powers(&[ON])(nth, method, path),
        _ => Reply::Close,
    })
    .await;
    let (result, took) = off(&fake.bmc()).await;
    assert!(
        matches!(result, Err(BmcError::Unreachable { .. } | BmcError::Late { .. })),
        "{result:?}"
    );
    assert!(took <= Duration::from_millis(10_500), "{took:?}");
}

#[tokio::test]
async fn a_flood_is_cut_off() {
    let fake = Fake::start(|_, _, _| Reply::Flood).await;
    let (result, took) = off(&fake.bmc()).await;
    assert!(matches!(result, Err(BmcError::Answer { what: "too much", .. })), "{result:?}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    assert!(fake.sent() < 32 * 1024 * 1024, "{} bytes were taken", fake.sent());
}

#[tokio::test]
async fn nothing_a_bmc_says_leads_elsewhere() {
    let other = Fake::start(powers(&[OFF])).await;
    let to = format!("{}/redfish/v1/Systems", other.bmc().url);
    let fake = Fake::start(move |_, _, _| Reply::redirect(&to)).await;
    let (result, _) = off(&fake.bmc()).await;
    assert!(matches!(&result, Err(BmcError::Refused { status, .. }) if status.as_u16() == 302));
    for id in ["//10.0.0.1/redfish/v1/Systems/1", "/redfish/v1/Systems/../Managers/1", "http://x/"]
    {
        let list = format!(r#"{{"Members":[{{"@odata.id":"{id}"}}]}}"#);
        let fake = Fake::start(move |_, _, _| Reply::json(200, &list)).await;
        let (result, _) = off(&fake.bmc()).await;
        assert!(matches!(result, Err(BmcError::Answer { .. })), "{id}: {result:?}");
        assert_eq!(fake.asked().len(), 1);
    }
    assert_eq!(other.asked(), [""; 0]);
}

#[tokio::test]
async fn of_several_systems_none_is_guessed() {
    let list = r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/1"},{"@odata.id":"/redfish/v1/Systems/2"}]}"#;
    let answer = |_: usize, method: &str, path: &str| match path {
        "/redfish/v1/Systems" => Reply::json(200, list),
        _ => powers(&[OFF])(0, method, path),
    };
    let fake = Fake::start(answer).await;
    let (result, _) = off(&fake.bmc()).await;
    assert!(matches!(result, Err(BmcError::Answer { .. })), "{result:?}");
    let bmc = Bmc { system: Some("/redfish/v1/Systems/1".into()), ..fake.bmc() };
    off(&bmc).await.0.expect("the one that was named");
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_never_shown() {
    let fake = Fake::start(|_, _, _| Reply::json(401, "{}")).await;
    let (result, took) = off(&fake.bmc()).await;
    let err = result.expect_err("refused");
    assert!(matches!(&err, BmcError::Refused { status, .. } if status.as_u16() == 401));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let shown = format!("{err:?} {err} {:?}", Redfish::new(&fake.bmc()).expect("client"));
    assert!(!shown.contains("switch:it"), "{shown}");
}

#[tokio::test]
async fn another_certificate_is_told_nothing() {
    let fake = Fake::start(powers(&[OFF])).await;
    let bmc = Bmc { fingerprint: "ab".repeat(32), ..fake.bmc() };
    let result = Redfish::new(&bmc).expect("client").look().await;
    assert!(matches!(result, Err(BmcError::Unreachable { .. })), "{result:?}");
    assert_eq!(fake.asked(), [""; 0], "the password went out");
}

#[tokio::test]
async fn an_order_called_off_in_time_is_never_sent() {
    let fake = Fake::start(|nth, method, path| {
        std::thread::sleep(Duration::from_millis(300));
        powers(&[ON])(nth, method, path)
    })
    .await;
    let client = Redfish::new(&fake.bmc()).expect("client");
    let work = tokio::time::timeout(Duration::from_millis(450), client.off()).await;
    assert!(work.is_err());
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!fake.asked().contains(&ORDER.to_owned()), "{:?}", fake.asked());
}

#[tokio::test]
async fn on_is_ordered_and_power_is_read() {
    let fake = Fake::start(powers(&[ON])).await;
    let client = Redfish::new(&fake.bmc()).expect("client");
    client.on().await.expect("on");
    assert_eq!(fake.bodies(), [r#"{"ResetType":"On"}"#]);
    assert_eq!(client.look().await.expect("power"), Power::Other(ON.into()));
}
