//! X5-12: no TLS connection to us is ever a continuation of an earlier one, so that every connection is a fresh proof
//! by the machine's key and a fresh look at its certificate.

use countersign_testkit::wire::{Resuming, visits_to_a_server_with_tickets};
use rustls::HandshakeKind;

use super::Scene;
use crate::block_on;

#[test]
fn no_connection_is_resumed() {
    let scene = Scene::new();
    let ready = scene.stage.world.ready();
    block_on(async {
        let [first, second] = visits_to_a_server_with_tickets().await.expect("the control");
        assert_eq!(
            (is_full(first), second),
            (true, HandshakeKind::Resumed),
            "the client does resume where it may"
        );
        let client = Resuming::new(ready, &scene.laptop, &scene.insider).expect("a client");
        for url in [&ready.gateway, &ready.server] {
            let authority = url.trim_start_matches("https://");
            for visit in 0..3 {
                let kind = client.visit(authority).await.expect("an answer");
                assert!(is_full(kind), "visit {visit} to {url}: {kind:?}");
            }
        }
    });
}

fn is_full(kind: HandshakeKind) -> bool {
    matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
}
