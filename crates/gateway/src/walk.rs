//! The walk: the one way every request goes, at every entrance.
//!
//! parse → authenticate agent → appraise machine → bind → decide → record (durable) → reveal → forward | refuse
//! | challenge. Nothing goes upstream and nothing is refused without a record. There is no second way: not for
//! localhost, not for tests, not for administrators.

use std::sync::Arc;

use bytes::Bytes;
use countersign_audit::{Kind, Receipt, Record};
use countersign_identity::VerifiedAgent;
use countersign_policy::{CallState, Code, Countersigned, Decision, Facts, Needs, Permit, Verdict, refuse};
use countersign_proto::call::Call;
use countersign_proto::id::{DecisionId, UpstreamId};
use countersign_proto::json::Limits;
use countersign_proto::mcp::{self, Era, Id, McpRequest, Method, ProtocolVersion, RpcError, ToolCall};
use countersign_proto::time::Timestamp;
use countersign_trust::VerifiedMachine;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tracing::Instrument as _;

use crate::body::Body;
use crate::connection::Connection;
use crate::front::{self, Presented, Route};
use crate::gate::{Gate, Side};
use crate::refusal::{self, Asked, Stop};
use crate::standing::{Bearer, Standing};
use crate::step_up::Step;

use forward::Forward;

mod approval;
mod factors;
mod forward;
mod metadata;

/// One request's way: what is established so far, for its record and its answer.
pub(crate) struct Trail<'a> {
    gate: &'a Gate,
    connection: &'a Connection,
    decision_id: DecisionId,
    now: Timestamp,
    known: Known,
    side: Option<&'a Side>,
    id: Option<Id>,
    era: Era,
}

/// What is established so far. Only a refusal on the way makes a record of it; a decision makes its own.
#[derive(Default)]
struct Known {
    upstream: Option<UpstreamId>,
    call: Option<Arc<Call>>,
    agent: Option<VerifiedAgent>,
    machine: Option<VerifiedMachine>,
}

impl Known {
    fn facts(&self) -> Facts {
        let Self { upstream, call, agent, machine } = self;
        let facts = Facts::default();
        let facts = upstream.iter().fold(facts, Facts::upstream);
        let facts = call.iter().fold(facts, |facts, call| facts.call(call));
        let facts = agent.iter().fold(facts, Facts::agent);
        machine.iter().fold(facts, Facts::machine)
    }
}

/// How a walk ends early: with something still to be recorded, or with an answer already recorded.
enum Turn {
    /// To be recorded as a refusal.
    Stop(Stop),
    /// Recorded; this is the answer.
    Answered(Response<Body>),
}

/// What may be sent upstream, and on the strength of what.
enum Passage {
    /// A decided call.
    Call(Permit, Arc<Call>),
    /// A message that names no tool, recorded as access.
    Access(Admitted),
}

/// A recorded access. Made by [`Trail::record_access`] alone.
struct Admitted {
    decision_id: DecisionId,
    _receipt: Receipt,
}

/// Takes one request all the way. Always answers.
pub(crate) async fn walk(gate: &Gate, connection: &Connection, request: Request<Incoming>) -> Response<Body> {
    let trail = Trail::new(gate, connection);
    // At the level of errors, so that no filter that shows a line of this walk hides whose it is.
    let span = tracing::error_span!("walk", decision = %trail.decision_id);
    let started = tokio::time::Instant::now();
    async move {
        let mut trail = trail;
        let mut response = match trail.pass(request).await {
            Ok(response) | Err(Turn::Answered(response)) => response,
            Err(Turn::Stop(stop)) => trail.refuse(stop).await,
        };
        if connection.peer.is_err() {
            // One answer per connection for those who showed no machine.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        tracing::debug!(
            status = response.status().as_u16(),
            micros = started.elapsed().as_micros(),
            "walked"
        );
        response
    }
    .instrument(span)
    .await
}

impl<'a> Trail<'a> {
    fn new(gate: &'a Gate, connection: &'a Connection) -> Self {
        Self {
            gate,
            connection,
            decision_id: gate.decision_id(),
            now: gate.now(),
            known: Known::default(),
            side: None,
            id: None,
            era: Era::Legacy,
        }
    }

    /// The walk itself.
    async fn pass(&mut self, request: Request<Incoming>) -> Result<Response<Body>, Turn> {
        let (parts, body) = request.into_parts();
        let route = front::admit(&parts, &self.gate.origin, |id| self.gate.upstreams.contains_key(id))?;
        let side = self.arrive_at(route.upstream())?;
        if let Route::Metadata(_) = route {
            return Ok(metadata::answer(self.gate, side));
        }

        // Parse. One value from here on: what is judged is what is recorded is what is sent.
        let body = front::read_body(body, &self.gate.limits).await?;
        let presented = front::presented(&parts.headers)?;
        let message = self.parse(&route, &presented, &body)?;
        let call = self.parse_call(&route, message.as_ref())?;

        // Who, where, and both together.
        let standing = self.standing()?;
        let entry = standing
            .upstream(route.upstream())
            .ok_or_else(|| Stop::because(Code::TokenAudience, "the upstream is not in the snapshot"))?;
        let agent = self.authenticate_agent(&standing, entry, route.method(), &presented)?;
        let machine = self.appraise_machine(&standing)?;
        let bearer = Bearer::of(&agent, &machine);
        let who = self.bind(agent, machine)?;
        standing.still_bears(&bearer).map_err(|code| Stop::because(code, "no longer stands"))?;
        let session = self.session(presented.session.as_deref(), &bearer)?;

        // Decide, record, reveal.
        let passage = match call {
            Some(call) => {
                self.check_mirrored_arguments(message.as_ref(), &call, entry, &presented)?;
                let permit = self.decide(side, standing.clone(), &who, &bearer, &call, &presented).await?;
                Passage::Call(permit, call)
            }
            None => Passage::Access(self.record_access(&route, message.as_ref(), &who, &bearer).await?),
        };

        // Act.
        let forward = Forward { side, standing: &standing, who: &who, bearer, session };
        self.forward(forward, route, message, passage).await
    }

    fn arrive_at(&mut self, upstream: &UpstreamId) -> Result<&'a Side, Stop> {
        let side = self.gate.upstreams.get(upstream).ok_or_else(Stop::no_such_route)?;
        self.side = Some(side);
        self.known.upstream = Some(upstream.clone());
        Ok(side)
    }

    /// The message of a POST; the other methods have none.
    fn parse(
        &mut self,
        route: &Route,
        presented: &Presented,
        body: &Bytes,
    ) -> Result<Option<McpRequest>, Stop> {
        match route {
            Route::Metadata(_) | Route::Stream(_) | Route::EndSession(_) => {
                let version = presented.routing.version().map_err(Stop::rpc)?;
                match version.era() {
                    Era::Legacy => Ok(None),
                    Era::Modern => Err(Stop::method_not_allowed()),
                }
            }
            Route::Message(_) => {
                if let Ok(version) = presented.routing.version() {
                    self.era = version.era();
                }
                let limits = Limits { max_bytes: self.gate.limits.body_bytes, ..Limits::DEFAULT };
                let message = mcp::parse_request(body, &presented.routing, &limits).map_err(Stop::rpc)?;
                self.id = message.id().cloned();
                self.era = message.era();
                let spoken_here = self.side.and_then(|side| side.seen.era());
                match (spoken_here, message.era()) {
                    // An upstream of the older era cannot answer the newer one; the other way round many can.
                    (Some(Era::Legacy), Era::Modern) => {
                        Err(Stop::rpc(RpcError::unsupported_version().answering(self.id.clone())))
                    }
                    (None | Some(Era::Modern), Era::Modern)
                    | (None | Some(Era::Legacy | Era::Modern), Era::Legacy) => Ok(Some(message)),
                }
            }
        }
    }

    /// The call, if the message makes one.
    fn parse_call(&mut self, route: &Route, message: Option<&McpRequest>) -> Result<Option<Arc<Call>>, Stop> {
        let Some(message) = message.filter(|message| message.method() == Method::ToolsCall) else {
            return Ok(None);
        };
        let ToolCall { name, arguments } = message.tool_call().map_err(Stop::rpc)?;
        let call = Arc::new(Call { upstream: route.upstream().clone(), tool: name, arguments });
        self.known.call = Some(call.clone());
        Ok(Some(call))
    }

    fn standing(&self) -> Result<Arc<Standing>, Stop> {
        let stale = || Stop::because(Code::SnapshotStale, "no snapshot within its lease");
        self.gate.standings.fresh(self.gate.now()).ok_or_else(stale)
    }

    fn check_mirrored_arguments(
        &self,
        message: Option<&McpRequest>,
        call: &Call,
        entry: &countersign_proto::snapshot::UpstreamEntry,
        presented: &Presented,
    ) -> Result<(), Stop> {
        match (message, entry.tools.get(&call.tool)) {
            (Some(message), Some(tool)) => {
                mcp::check_param_headers(message, &call.arguments, &tool.input_schema, &presented.routing)
                    .map_err(Stop::rpc)
            }
            // Not a known tool: the decision will say so.
            (Some(_) | None, None) | (None, Some(_)) => Ok(()),
        }
    }

    /// Decides one call. A budget is taken before the decision and given back unless it permits, so that calls
    /// made at the same time cannot exceed it together.
    async fn decide(
        &mut self,
        side: &Side,
        standing: Arc<Standing>,
        who: &Countersigned,
        bearer: &Bearer,
        call: &Call,
        presented: &Presented,
    ) -> Result<Permit, Turn> {
        self.gate.ensure_listed(side).await.map_err(|error| {
            Stop::because(Code::UpstreamFailed, format!("tools cannot be listed: {error}"))
        })?;
        let answer = match &presented.approval {
            None => approval::Answer::NotAsked,
            Some(id) => self.redeem(&standing, id, call, bearer).await.inspect_err(|_| {
                self.gate.step_ups.count(bearer, call.digest(), Step::Refused);
            })?,
        };
        // Waiting for a person takes time in which a kill may have come: decide by what holds now.
        let standing = self.standing()?;
        standing.still_bears(bearer).map_err(|code| Stop::because(code, "no longer stands"))?;
        let entry = standing
            .upstream(&call.upstream)
            .ok_or_else(|| Stop::because(Code::TokenAudience, "the upstream is not in the snapshot"))?;

        let Some(reservation) = self.gate.budgets.reserve(&bearer.task, self.gate.now()) else {
            return Err(Stop::because(Code::TaskBudget, "no room to count another task").into());
        };
        let state = CallState {
            now: self.gate.now(),
            calls_used: reservation.used_before,
            approval: answer.granted(),
            tool: side.seen.standing(entry, &call.tool),
            decision_id: self.decision_id.clone(),
            nonce: self.gate.nonce(),
        };
        let started = tokio::time::Instant::now();
        let decision = standing.pdp.decide(who, call, &state);
        metrics::histogram!("cs_decision_seconds").record(started.elapsed().as_secs_f64());

        match self.record_and_reveal(decision).await {
            Ok(Verdict::Permit(permit)) => {
                reservation.keep();
                count_decision("permit", "");
                self.gate.step_ups.count(bearer, *permit.call_digest(), Step::Permitted);
                Ok(permit)
            }
            Ok(Verdict::Deny(denial)) => {
                count_decision("deny", denial.code.as_str());
                self.gate.step_ups.count(bearer, call.digest(), Step::Refused);
                Err(Turn::Answered(refusal::denied(&denial, &self.asked())))
            }
            Ok(Verdict::Challenge(needed)) => {
                count_decision("challenge", "");
                let step = match (&needed.needs, &answer) {
                    (Needs::FreshAttestation { .. } | Needs::Acr(_), _) => Step::Evidence,
                    (Needs::Approval, approval::Answer::Pending(_)) => Step::Waiting,
                    (Needs::Approval, approval::Answer::NotAsked | approval::Answer::Granted(_)) => {
                        Step::Person
                    }
                };
                self.gate.step_ups.count(bearer, call.digest(), step);
                Err(Turn::Answered(match needed.needs {
                    Needs::FreshAttestation { .. } | Needs::Acr(_) => {
                        refusal::step_up(&needed, &self.asked())
                    }
                    Needs::Approval => {
                        let handle = self.ask(&standing, who, bearer, call, answer).await;
                        refusal::approval_required(&needed, handle.as_ref(), &self.asked())
                    }
                }))
            }
            Err(turn) => Err(turn),
        }
    }

    /// Makes a decision durable and only then looks at it.
    async fn record_and_reveal(&self, decision: Decision) -> Result<Verdict, Turn> {
        match self.gate.log.append(decision.record().clone()).await {
            Ok(receipt) => match decision.reveal(receipt) {
                Ok(verdict) => Ok(verdict),
                Err(error) => Err(self.unrecorded(&error)),
            },
            Err(error) => Err(self.unrecorded(&error)),
        }
    }

    /// Records a message that names no tool; these read and keep sessions, and change nothing.
    async fn record_access(
        &self,
        route: &Route,
        message: Option<&McpRequest>,
        who: &Countersigned,
        bearer: &Bearer,
    ) -> Result<Admitted, Turn> {
        let what = message.map_or(route.method(), |message| message.method().as_str());
        let record = Record::new(Kind::Access, self.now, self.gate.nonce())
            .decision(&self.decision_id)
            .with("method", what)
            .with("upstream", route.upstream().as_str())
            .with("agent", bearer.agent.as_str())
            .with("agent_proof", who.agent().proof_kind())
            .with("run", bearer.run.as_str())
            .with("task", bearer.task.as_str())
            .with("machine", bearer.machine.as_str())
            .build()
            .map_err(|error| self.unrecorded(&error))?;
        let receipt = self.gate.log.append(record).await.map_err(|error| self.unrecorded(&error))?;
        Ok(Admitted { decision_id: self.decision_id.clone(), _receipt: receipt })
    }

    /// Ends the walk with a refusal, recorded like every other decision.
    async fn refuse(&self, stop: Stop) -> Response<Body> {
        let mut facts = self.known.facts();
        if !stop.detail.is_empty() {
            facts = facts.detail(&stop.detail);
        }
        if let Some(kind) = stop.alarm {
            metrics::counter!("cs_alarms_total", "kind" => kind).increment(1);
            facts = facts.alarm(kind);
        }
        let decision = refuse(stop.code, self.decision_id.clone(), self.now, self.gate.nonce(), facts);
        match self.record_and_reveal(decision).await {
            Ok(Verdict::Deny(denial)) => {
                count_decision("deny", denial.code.as_str());
                tracing::info!(code = %denial.code, detail = stop.detail, "refused");
                refusal::stopped(stop, &denial, &self.asked())
            }
            // A refusal is never anything else; if it were, it would still not pass.
            Ok(Verdict::Permit(_) | Verdict::Challenge(_)) => refusal::unrecorded(&self.asked()),
            Err(Turn::Answered(response)) => response,
            Err(Turn::Stop(_)) => refusal::unrecorded(&self.asked()),
        }
    }

    fn unrecorded(&self, error: &(dyn std::error::Error + 'static)) -> Turn {
        count_decision("deny", Code::AuditUnavailable.as_str());
        tracing::error!(error, "a decision could not be recorded");
        Turn::Answered(refusal::unrecorded(&self.asked()))
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            id: self.id.as_ref(),
            era: self.era,
            metadata_url: self.side.map(|side| side.metadata_url.as_str()),
            spoken: self.side.map_or(&ProtocolVersion::ALL[..], |side| side.seen.spoken()),
        }
    }
}

fn count_decision(effect: &'static str, code: &'static str) {
    metrics::counter!("cs_decisions_total", "effect" => effect, "code" => code).increment(1);
}

impl From<Stop> for Turn {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}
