//! An upstream's tools: listed by the gateway itself, compared with what was reviewed, shown as policy allows.
//!
//! A tool whose definition is not the pinned one is neither shown nor called. The gateway lists at start, at
//! intervals and whenever a caller lists; it proposes what is new and raises an alarm for what changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_policy::ToolStanding;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::ToolName;
use countersign_proto::json::{Object, Value};
use countersign_proto::mcp::{
    Era, Id, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_PROTOCOL_VERSION, ProtocolVersion,
};
use countersign_proto::snapshot::{ToolState, UpstreamEntry};
use http::{HeaderValue, Method};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::control::ToolManifest;
use crate::sse::{self, Answer, NoAnswer};
use crate::upstream::{Outbound, SESSION, Upstream, UpstreamError, is_event_stream};

/// Pages of one listing; a server that has more is not listed at all.
const MAX_PAGES: usize = 50;
/// Tools of one upstream.
const MAX_TOOLS: usize = 2_000;

/// What the gateway has seen of an upstream.
pub(crate) struct Seen {
    listing: Mutex<Option<Listing>>,
    /// One listing at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// A caller's listing showed what ours did not: list now instead of later.
    pub(crate) news: Notify,
}

#[derive(Clone, Debug)]
struct Listing {
    era: Era,
    digests: BTreeMap<ToolName, Sha256Digest>,
}

/// Why an upstream could not be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Answer(#[from] NoAnswer),
    #[error("the upstream did not list its tools in time")]
    Timeout,
    #[error("the upstream answered with an error")]
    Refused,
    #[error("the upstream's list is not a list of tools, or has no end")]
    Malformed,
}

/// A pinned tool that now has another definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) tool: ToolName,
    pub(crate) pinned: Sha256Digest,
    pub(crate) seen: Sha256Digest,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self { listing: Mutex::new(None), turn: tokio::sync::Mutex::new(()), news: Notify::new() }
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listing.lock().is_some()
    }

    /// The era the upstream answered in.
    pub(crate) fn era(&self) -> Option<Era> {
        self.listing.lock().as_ref().map(|listing| listing.era)
    }

    /// The revisions to offer a caller who spoke another era.
    pub(crate) fn spoken(&self) -> &'static [ProtocolVersion] {
        match self.era() {
            Some(Era::Modern) => &[ProtocolVersion::V2026_07_28],
            Some(Era::Legacy) => {
                &[ProtocolVersion::V2025_11_25, ProtocolVersion::V2025_06_18, ProtocolVersion::V2025_03_26]
            }
            None => &ProtocolVersion::ALL,
        }
    }

    /// How a tool stands: what was reviewed against what the upstream last offered.
    pub(crate) fn standing(&self, entry: &UpstreamEntry, tool: &ToolName) -> ToolStanding {
        let Some(pinned) = entry.tools.get(tool) else { return ToolStanding::Unknown };
        let listing = self.listing.lock();
        let Some(offered) = listing.as_ref().and_then(|listing| listing.digests.get(tool)) else {
            return ToolStanding::Unknown;
        };
        if !offered.ct_eq(&pinned.digest) {
            return ToolStanding::Changed;
        }
        match pinned.state {
            ToolState::Pinned => ToolStanding::Pinned,
            ToolState::Proposed => ToolStanding::Proposed,
            ToolState::Changed => ToolStanding::Changed,
        }
    }

    /// Replaces what was seen; says which pinned tools changed since it was last asked.
    pub(crate) fn replace(
        &self,
        era: Era,
        tools: &[ToolManifest],
        entry: Option<&UpstreamEntry>,
    ) -> Vec<Changed> {
        let digests = tools.iter().map(|tool| (tool.name.clone(), tool.digest)).collect();
        let before = self.listing.lock().replace(Listing { era, digests });
        let before = before.map(|listing| listing.digests).unwrap_or_default();
        changes(tools, entry, |tool| before.get(&tool.name) == Some(&tool.digest))
    }

    /// Notes definitions that a caller's own listing showed, and asks for a listing of ours if any is news: only
    /// what the gateway listed itself is proposed to the control plane.
    fn note(&self, tools: &[ToolManifest], entry: &UpstreamEntry) -> Vec<Changed> {
        let mut listing = self.listing.lock();
        let Some(listing) = listing.as_mut() else { return Vec::new() };
        let known = |tool: &ToolManifest| listing.digests.get(&tool.name) == Some(&tool.digest);
        let changed = changes(tools, Some(entry), known);
        if tools.iter().any(|tool| !known(tool)) {
            self.news.notify_one();
        }
        for change in &changed {
            listing.digests.insert(change.tool.clone(), change.seen);
        }
        changed
    }
}

fn changes(
    tools: &[ToolManifest],
    entry: Option<&UpstreamEntry>,
    known: impl Fn(&ToolManifest) -> bool,
) -> Vec<Changed> {
    let pinned = |tool: &ToolManifest| entry?.tools.get(&tool.name).map(|pinned| pinned.digest);
    tools
        .iter()
        .filter(|tool| !known(tool))
        .filter_map(|tool| {
            let pinned = pinned(tool).filter(|pinned| !pinned.ct_eq(&tool.digest))?;
            Some(Changed { tool: tool.name.clone(), pinned, seen: tool.digest })
        })
        .collect()
}

/// A caller's `tools/list` result without the tools it may not call. The answer is this caller's own, so it
/// must not be kept or shared.
pub(crate) fn filter_listing(
    seen: &Seen,
    entry: &UpstreamEntry,
    mut result: Object,
    era: Era,
    may_list: impl Fn(&ToolName) -> bool,
) -> Option<(Object, Vec<Changed>)> {
    let Some(Value::List(definitions)) = result.remove("tools") else { return None };
    let manifests: Vec<ToolManifest> = definitions.into_iter().filter_map(manifest).collect();
    let changed = seen.note(&manifests, entry);
    let shown: Vec<Value> = manifests
        .into_iter()
        .filter(|tool| match seen.standing(entry, &tool.name) {
            ToolStanding::Pinned => {
                entry.tools.get(&tool.name).is_some_and(|pinned| pinned.digest.ct_eq(&tool.digest))
                    && may_list(&tool.name)
            }
            ToolStanding::Proposed | ToolStanding::Changed | ToolStanding::Unknown => false,
        })
        .map(|tool| tool.definition)
        .collect();
    result.insert("tools", shown).ok()?;
    if era == Era::Modern {
        result.remove("ttlMs");
        result.remove("cacheScope");
        result.insert("ttlMs", 0_u32).ok()?;
        result.insert("cacheScope", "private").ok()?;
    }
    Some((result, changed))
}

/// A tool with a name we can spell; others do not exist for us.
fn manifest(definition: Value) -> Option<ToolManifest> {
    let name = ToolName::parse(definition.as_object()?.get("name")?.as_str()?).ok()?;
    Some(ToolManifest { name, digest: Sha256Digest::of(&definition.to_jcs()), definition })
}

/// Lists an upstream's tools in the gateway's own name, newest era first.
pub(crate) async fn list(
    upstream: &Upstream,
    max_bytes: usize,
) -> Result<(Era, Vec<ToolManifest>), ListError> {
    match list_modern(upstream, max_bytes).await {
        Ok(tools) => Ok((Era::Modern, tools)),
        Err(ListError::Upstream(error @ (UpstreamError::Connect(_) | UpstreamError::ConnectTimeout))) => {
            Err(error.into())
        }
        Err(_) => list_legacy(upstream, max_bytes).await.map(|tools| (Era::Legacy, tools)),
    }
}

async fn list_modern(upstream: &Upstream, max_bytes: usize) -> Result<Vec<ToolManifest>, ListError> {
    let mirrored = vec![
        ("mcp-protocol-version".to_owned(), ProtocolVersion::V2026_07_28.as_str().to_owned()),
        ("mcp-method".to_owned(), "tools/list".to_owned()),
    ];
    pages(upstream, max_bytes, &mirrored, None, || {
        object([
            (META_PROTOCOL_VERSION, ProtocolVersion::V2026_07_28.as_str().into()),
            (META_CLIENT_CAPABILITIES, Object::new().into()),
            (META_CLIENT_INFO, client_info().into()),
        ])
    })
    .await
}

async fn list_legacy(upstream: &Upstream, max_bytes: usize) -> Result<Vec<ToolManifest>, ListError> {
    let params = object([
        ("protocolVersion", ProtocolVersion::V2025_11_25.as_str().into()),
        ("capabilities", Object::new().into()),
        ("clientInfo", client_info().into()),
    ]);
    let (initialized, session) =
        ask(upstream, max_bytes, "initialize", Id::Number(0), params, Vec::new(), None).await?;
    let version = initialized.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mirrored = vec![("mcp-protocol-version".to_owned(), version)];
    let listed = async {
        tell(upstream, Method::POST, "notifications/initialized", &mirrored, &session).await?;
        pages(upstream, max_bytes, &mirrored, session.clone(), Object::new).await
    }
    .await;
    if session.is_some() {
        // Politeness; the upstream may forget it by itself.
        let _answer = tell(upstream, Method::DELETE, "", &mirrored, &session).await;
    }
    listed
}

async fn pages(
    upstream: &Upstream,
    max_bytes: usize,
    mirrored: &[(String, String)],
    session: Option<HeaderValue>,
    meta: impl Fn() -> Object,
) -> Result<Vec<ToolManifest>, ListError> {
    let mut tools = Vec::new();
    let mut cursor: Option<String> = None;
    for page in 1..=MAX_PAGES {
        let mut params = Object::new();
        let meta = meta();
        if !meta.is_empty() {
            params.insert("_meta", meta).map_err(|_| ListError::Malformed)?;
        }
        if let Some(cursor) = cursor {
            params.insert("cursor", cursor).map_err(|_| ListError::Malformed)?;
        }
        let id = Id::Number(i64::try_from(page).unwrap_or(i64::MAX));
        let (mut result, _) =
            ask(upstream, max_bytes, "tools/list", id, params, mirrored.to_vec(), session.clone()).await?;
        let Some(Value::List(definitions)) = result.remove("tools") else { return Err(ListError::Malformed) };
        tools.extend(definitions.into_iter().filter_map(manifest));
        if tools.len() > MAX_TOOLS {
            return Err(ListError::Malformed);
        }
        cursor = match result.remove("nextCursor") {
            None | Some(Value::Null) => return Ok(tools),
            Some(Value::Text(cursor)) => Some(cursor),
            Some(_) => return Err(ListError::Malformed),
        };
    }
    Err(ListError::Malformed)
}

async fn ask(
    upstream: &Upstream,
    max_bytes: usize,
    method: &str,
    id: Id,
    params: Object,
    mirrored: Vec<(String, String)>,
    session: Option<HeaderValue>,
) -> Result<(Object, Option<HeaderValue>), ListError> {
    let mut message = object([("jsonrpc", "2.0".into()), ("id", id.to_value()), ("method", method.into())]);
    if !params.is_empty() {
        message.insert("params", params).map_err(|_| ListError::Malformed)?;
    }
    let body = Bytes::from(message.to_jcs());
    let outbound = Outbound { method: Method::POST, body, mirrored, session, decision: None };
    let inbound = upstream.send(outbound).await?;
    if !inbound.response.status().is_success() {
        return Err(ListError::Refused);
    }
    let events = is_event_stream(&inbound.response);
    let (parts, body) = inbound.response.into_parts();
    let answer = sse::read_answer(body, events, &id, max_bytes).await?;
    match answer {
        Answer::Result(result) => Ok((result, parts.headers.get(SESSION).cloned())),
        Answer::Error(_) => Err(ListError::Refused),
    }
}

async fn tell(
    upstream: &Upstream,
    method: Method,
    notification: &str,
    mirrored: &[(String, String)],
    session: &Option<HeaderValue>,
) -> Result<(), ListError> {
    let body = if notification.is_empty() {
        Bytes::new()
    } else {
        Bytes::from(object([("jsonrpc", "2.0".into()), ("method", notification.into())]).to_jcs())
    };
    let outbound =
        Outbound { method, body, mirrored: mirrored.to_vec(), session: session.clone(), decision: None };
    upstream.send(outbound).await?;
    Ok(())
}

fn client_info() -> Object {
    object([("name", "countersign".into()), ("version", env!("CARGO_PKG_VERSION").into())])
}

pub(crate) fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    let mut object = Object::new();
    for (name, value) in members {
        let inserted = object.insert(name, value);
        debug_assert!(inserted.is_ok(), "each member is given once");
    }
    object
}

#[cfg(test)]
mod tests;
