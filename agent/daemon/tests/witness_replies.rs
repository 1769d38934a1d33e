// SPDX-License-Identifier: Apache-2.0
//! Replies of a witness that are not what they should be. The one who answers has a certificate of
//! the owner's CA, as a stolen TLS key or a proxy in HQ's place would.

mod fake_hq;

use agent_daemon::hq::client::HqClient;
use agent_daemon::hq::reply::{ReplyError, Trust};
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::hq::witness::{LIMIT, Witness};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake_hq::{ec_key, serve, spki};
use provisioning_protocol::desired::WITNESS_PATH;
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName};
use provisioning_protocol::witness::{WitnessState, WitnessSwap};
use provisioning_protocol::witness_reply::{Asked, NONCE_HEADER, SIGNATURE_HEADER};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is wrong with the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    Unsigned,
    OtherKey,
    Replayed,
    OtherNonce,
    OtherSite,
    OtherSlot,
    OtherQuestion,
    Changed,
    Truncated,
    ShortSignature,
    NoHex,
    Oversized,
    Late,
    NoReply,
}

struct Liar {
    lie: Mutex<Lie>,
    key: EcdsaKeyPair,
    stolen: EcdsaKeyPair,
    state: Mutex<WitnessState>,
    /// The first reply ever given, with its signature.
    first: Mutex<Option<(String, Vec<u8>)>>,
}

impl Liar {
    fn sign(&self, asked: &Asked<'_>, reply: &[u8], key: &EcdsaKeyPair) -> String {
        let signature = key.sign(&SystemRandom::new(), &asked.signed(reply)).unwrap();
        signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn reply(&self, nonce: &str, body: &[u8]) -> (Option<String>, Vec<u8>) {
        let lie = *self.lie.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        let mut reply = match serde_json::from_slice::<WitnessSwap>(body) {
            Ok(swap) => serde_json::to_vec(&state.swap(&swap)).unwrap(),
            Err(_) => serde_json::to_vec(&state.record).unwrap(),
        };
        let (oslo, kassel) = (site("oslo"), site("kassel"));
        let asked = Asked { nonce, site: &oslo, slot: NodeSlot::A, body };
        let other = "0".repeat(64);
        let asked = match lie {
            Lie::OtherNonce => Asked { nonce: &other, ..asked },
            Lie::OtherSite => Asked { site: &kassel, ..asked },
            Lie::OtherSlot => Asked { slot: NodeSlot::B, ..asked },
            Lie::OtherQuestion => Asked { body: b"{}", ..asked },
            _ => asked,
        };
        match lie {
            // Space after JSON is JSON, so only the length is wrong.
            Lie::Oversized => reply.resize(5_000, b' '),
            Lie::NoReply => reply = b"[]".to_vec(),
            _ => {}
        }
        let key = if lie == Lie::OtherKey { &self.stolen } else { &self.key };
        let mut signature = Some(self.sign(&asked, &reply, key));
        let mut first = self.first.lock().unwrap();
        let first = first.get_or_insert_with(|| (signature.clone().unwrap(), reply.clone()));
        match lie {
            Lie::Unsigned => signature = None,
            Lie::Replayed => (signature, reply) = (Some(first.0.clone()), first.1.clone()),
            Lie::Changed => reply.push(b' '),
            Lie::Truncated => reply.truncate(reply.len() - 1),
            Lie::ShortSignature => signature = signature.map(|text| text[..126].to_owned()),
            Lie::NoHex => signature = Some("é".repeat(64)),
            _ => {}
        }
        (signature, reply)
    }
}

async fn handle(State(liar): State<Arc<Liar>>, headers: HeaderMap, body: Bytes) -> Response {
    let nonce = headers[NONCE_HEADER].to_str().unwrap();
    let (signature, reply) = liar.reply(nonce, &body);
    if *liar.lie.lock().unwrap() == Lie::Late {
        tokio::time::sleep(LIMIT).await;
    }
    let mut answer = reply.into_response();
    if let Some(signature) = signature {
        let value = axum::http::HeaderValue::from_bytes(signature.as_bytes()).unwrap();
        answer.headers_mut().insert(SIGNATURE_HEADER, value);
    }
    answer
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn publish() -> WitnessSwap {
    WitnessSwap {
        request_id: 1,
        by: NodeSlot::A,
        expect_epoch: Epoch(0),
        epoch: Epoch(1),
        in_sync: NodeSlot::BOTH.into(),
        winner: None,
    }
}

fn claim() -> WitnessSwap {
    WitnessSwap {
        request_id: 2,
        expect_epoch: Epoch(1),
        epoch: Epoch(2),
        in_sync: [NodeSlot::A].into(),
        winner: Some(NodeSlot::A),
        ..publish()
    }
}

async fn start() -> (Arc<Liar>, Witness) {
    let liar = Arc::new(Liar {
        lie: Mutex::new(Lie::Nothing),
        key: ec_key(),
        stolen: ec_key(),
        state: Mutex::new(WitnessState::new(7)),
        first: Mutex::new(None),
    });
    let app = Router::new().route(WITNESS_PATH, get(handle).post(handle)).with_state(liar.clone());
    let (at, root) = serve(app).await;
    let client =
        HqClient::new(&[format!("https://{at}")], &root, Arc::new(TlsMemory::default()), None)
            .unwrap();
    let key = STANDARD.encode(spki(&liar.key));
    let witness = Witness::new(client, Trust::new(&site("oslo"), NodeSlot::A, [key.as_str()]));
    (liar, witness)
}

#[tokio::test]
async fn a_reply_that_is_not_signed_for_this_question_is_not_believed() {
    let (liar, witness) = start().await;
    assert!(witness.swap(&publish()).await.expect("an honest answer").granted);
    let lies = [
        (Lie::Unsigned, ReplyError::Unsigned),
        (Lie::OtherKey, ReplyError::Forged),
        (Lie::Replayed, ReplyError::Forged),
        (Lie::OtherNonce, ReplyError::Forged),
        (Lie::OtherSite, ReplyError::Forged),
        (Lie::OtherSlot, ReplyError::Forged),
        (Lie::OtherQuestion, ReplyError::Forged),
        (Lie::Changed, ReplyError::Forged),
        (Lie::Truncated, ReplyError::Forged),
        (Lie::ShortSignature, ReplyError::Encoding),
        (Lie::NoReply, ReplyError::Content),
    ];
    for (lie, why) in lies {
        *liar.lie.lock().unwrap() = lie;
        assert_eq!(witness.record().await, None, "{lie:?}");
        assert_eq!(witness.disbelieved(), Some(why), "{lie:?}");
        assert_eq!(witness.swap(&claim()).await, None, "{lie:?}");
        assert_eq!(witness.disbelieved(), Some(why), "{lie:?}");
        *liar.lie.lock().unwrap() = Lie::Nothing;
        assert!(witness.record().await.is_some(), "after {lie:?}");
        assert_eq!(witness.disbelieved(), None);
    }
    // What was refused above had been granted by the witness: the same question gets it now.
    assert!(witness.swap(&claim()).await.expect("an honest answer").granted);
}

#[tokio::test]
async fn a_reply_that_is_too_long_or_no_text_is_as_none() {
    let (liar, witness) = start().await;
    for lie in [Lie::Oversized, Lie::NoHex] {
        *liar.lie.lock().unwrap() = lie;
        assert_eq!(witness.record().await, None, "{lie:?}");
        assert_eq!(witness.swap(&publish()).await, None, "{lie:?}");
    }
}

#[tokio::test]
async fn a_reply_three_seconds_late_is_as_none() {
    let (liar, witness) = start().await;
    assert!(witness.record().await.is_some());
    *liar.lie.lock().unwrap() = Lie::Late;
    let begun = Instant::now();
    assert_eq!(witness.swap(&publish()).await, None);
    assert!(begun.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", begun.elapsed());
    *liar.lie.lock().unwrap() = Lie::Nothing;
    // The witness had granted it; the repetition of the same question gets the same answer.
    assert!(witness.swap(&publish()).await.expect("an honest answer").granted);
}
