//! Protected-resource metadata (RFC 9728 §2): what a client needs to know before it has a token.

use countersign_proto::json::Value;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::gate::{Gate, Side};
use crate::refusal;
use crate::tools::object;

pub(super) fn answer(gate: &Gate, side: &Side) -> Response<Body> {
    let held = gate.standings.held();
    let resource = held
        .as_ref()
        .and_then(|standing| standing.upstream(&side.upstream.id))
        .map_or_else(|| gate.origin.mcp_url(&side.upstream.id), |entry| entry.resource.clone());
    let texts = |items: &[&str]| Value::List(items.iter().map(|item| Value::from(*item)).collect());
    let metadata = object([
        ("resource", resource.into()),
        ("authorization_servers", texts(&[&gate.issuer])),
        ("bearer_methods_supported", texts(&["header"])),
        ("dpop_signing_alg_values_supported", texts(&["ES256", "EdDSA"])),
        ("dpop_bound_access_tokens_required", true.into()),
    ]);
    refusal::answer(StatusCode::OK, metadata.to_jcs())
}
