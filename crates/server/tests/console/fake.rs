//! A control plane in memory that behaves: one-time invitations, consumed challenges, final approvals.
//!
//! For the console's tests and its demonstration. It has no log and no agents; what it is told is all it knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_proto::approval::{ApprovalDomain, ApprovalObject, ApprovalScope};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{
    AgentId, ApprovalId, MachineId, PersonId, PolicyId, RunId, TaskId, ToolName, UpstreamId,
};
use countersign_proto::json::{self, Limits};
use countersign_proto::time::Timestamp;
use countersign_proto::webauthn::{Credential, VerifiedAssertion};
use countersign_server::console::port::{
    ApprovalState, ApprovalView, ConsolePerson, ConsolePort, DecisionRow, Invitation, PortError, PortFuture,
    SignedApproval,
};
use countersign_server::console::view::CallView;

/// The fake.
#[derive(Default)]
pub struct Fake(Mutex<State>);

/// All it knows. Public, so that a test can look and meddle.
#[derive(Default)]
pub struct State {
    /// Everybody.
    pub people: BTreeMap<PersonId, String>,
    /// Token to person and end; removed when spent.
    pub invites: HashMap<String, (PersonId, Timestamp)>,
    /// Who has which passkeys.
    pub passkeys: Vec<(PersonId, Credential)>,
    /// Requests in the order they were asked.
    pub approvals: Vec<ApprovalView>,
    /// Challenges that were used.
    pub consumed: HashSet<[u8; 32]>,
    /// Alarms raised.
    pub alarms: Vec<String>,
    /// The newest decisions.
    pub decisions: Vec<DecisionRow>,
    /// While set, nothing can be read or written.
    pub down: bool,
    /// Calls of the methods that change something.
    pub changes: usize,
}

/// A name of any kind, in a fixture.
pub fn person(id: &str) -> PersonId {
    PersonId::parse(id).expect("a fixture's name is valid")
}

/// A request for approval of `tool` with `arguments`, asked for `requester` and ending at `expires_at`.
pub fn asked(
    id: &str,
    tool: &str,
    arguments: &str,
    requester: &str,
    asked_at: Timestamp,
    expires_at: Timestamp,
) -> ApprovalView {
    let (upstream, tool) = tool.split_once('/').expect("upstream/tool");
    ApprovalView {
        id: ApprovalId::parse(id).expect("valid"),
        call: Call {
            upstream: UpstreamId::parse(upstream).expect("valid"),
            tool: ToolName::parse(tool).expect("valid"),
            arguments: json::parse_object(arguments.as_bytes(), &Limits::DEFAULT).expect("valid"),
        },
        agent: AgentId::parse("build-bot").expect("valid"),
        run: RunId::parse("run_7k2m").expect("valid"),
        machine: MachineId::parse("laptop-17").expect("valid"),
        task: TaskId::parse("task_9qfx").expect("valid"),
        purpose: "Release 2.4 of the web shop".to_owned(),
        requester: person(requester),
        asked_by: Some(PolicyId::parse("writes-need-approval").expect("valid")),
        policy: Sha256Digest::of(b"policies"),
        agent_says: None,
        asked_at,
        expires_at,
        state: ApprovalState::Asked,
        answerable: Ok(()),
    }
}

impl Fake {
    /// Look and meddle.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> PortFuture<'_, T> {
        let mut state = self.state();
        let answer = if state.down {
            Err(PortError::Unavailable("the disk of the fake is on fire".to_owned()))
        } else {
            work(&mut state)
        };
        Box::pin(std::future::ready(answer))
    }
}

impl State {
    fn person(&self, id: &PersonId) -> Result<ConsolePerson, PortError> {
        let display_name = self.people.get(id).ok_or(PortError::NotFound)?.clone();
        Ok(ConsolePerson { id: id.clone(), display_name })
    }

    fn open(&mut self, id: &ApprovalId, person: &PersonId, now: Timestamp) -> Result<usize, PortError> {
        let place = self.approvals.iter().position(|asked| asked.id == *id).ok_or(PortError::NotFound)?;
        let asked = &self.approvals[place];
        if asked.requester == *person {
            return Err(PortError::Forbidden("it was asked on your own behalf"));
        }
        if asked.state != ApprovalState::Asked || now >= asked.expires_at {
            return Err(PortError::Closed);
        }
        Ok(place)
    }

    fn object(asked: &ApprovalView, approver: &PersonId) -> ApprovalObject {
        ApprovalObject {
            domain: ApprovalDomain::V1,
            id: asked.id.clone(),
            call: asked.call.clone(),
            view_hash: CallView::of(&asked.call).hash(),
            scope: ApprovalScope::Once,
            policy: asked.policy,
            agent: asked.agent.clone(),
            run: asked.run.clone(),
            machine: asked.machine.clone(),
            task: asked.task.clone(),
            requester: asked.requester.clone(),
            approver: approver.clone(),
            expires_at: asked.expires_at.unix_secs(),
            nonce: Sha256Digest::of(asked.id.as_str().as_bytes()).b64(),
        }
    }

    fn seen_by(asked: &ApprovalView, viewer: &PersonId) -> ApprovalView {
        let answerable =
            if asked.requester == *viewer { Err("it was asked on your own behalf") } else { Ok(()) };
        ApprovalView { answerable, ..asked.clone() }
    }

    fn store(&mut self, person: &PersonId, assertion: &VerifiedAssertion) {
        for (owner, credential) in &mut self.passkeys {
            if owner == person && credential.id == assertion.credential_id() {
                *credential = assertion.credential().clone();
            }
        }
    }
}

impl ConsolePort for Fake {
    fn list_approvals<'a>(
        &'a self,
        viewer: &'a PersonId,
        limit: usize,
        now: Timestamp,
    ) -> PortFuture<'a, Vec<ApprovalView>> {
        self.answer(|state| {
            let mut all: Vec<ApprovalView> =
                state.approvals.iter().map(|asked| State::seen_by(asked, viewer)).collect();
            all.sort_by_key(|asked| asked.state != ApprovalState::Asked || now >= asked.expires_at);
            all.truncate(limit);
            Ok(all)
        })
    }

    fn approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        viewer: &'a PersonId,
        _now: Timestamp,
    ) -> PortFuture<'a, ApprovalView> {
        self.answer(|state| {
            let asked = state.approvals.iter().find(|asked| asked.id == *id).ok_or(PortError::NotFound)?;
            Ok(State::seen_by(asked, viewer))
        })
    }

    fn begin_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ApprovalObject> {
        self.answer(|state| {
            let place = state.open(id, person, now)?;
            Ok(State::object(&state.approvals[place], person))
        })
    }

    fn grant_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        signed: SignedApproval,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        self.answer(|state| {
            state.changes += 1;
            let place = state.open(id, person, now)?;
            if signed.object != State::object(&state.approvals[place], person)
                || signed.object.challenge().ok().as_ref() != Some(signed.assertion.challenge())
                || !state.consumed.insert(*signed.assertion.challenge())
            {
                return Err(PortError::Conflict);
            }
            state.store(person, &signed.assertion);
            state.approvals[place].state = ApprovalState::Granted { by: person.clone(), at: now };
            Ok(())
        })
    }

    fn refuse_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        self.answer(|state| {
            state.changes += 1;
            let place = state.open(id, person, now)?;
            state.approvals[place].state = ApprovalState::Refused { by: person.clone(), at: now };
            Ok(())
        })
    }

    fn person_by_invite<'a>(&'a self, token: &'a str, now: Timestamp) -> PortFuture<'a, Invitation> {
        self.answer(|state| {
            let (id, expires_at) = state.invites.get(token).cloned().ok_or(PortError::NotFound)?;
            if now >= expires_at {
                return Err(PortError::Closed);
            }
            Ok(Invitation { person: state.person(&id)?, expires_at })
        })
    }

    fn register_passkey<'a>(
        &'a self,
        token: &'a str,
        person: &'a PersonId,
        credential: Credential,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        self.answer(|state| {
            state.changes += 1;
            match state.invites.get(token) {
                Some((id, expires_at)) if id == person && now < *expires_at => {}
                Some(_) | None => return Err(PortError::Closed),
            }
            if state.passkeys.iter().any(|(_, known)| known.id == credential.id) {
                return Err(PortError::Conflict);
            }
            state.invites.remove(token);
            state.passkeys.push((person.clone(), credential));
            Ok(())
        })
    }

    fn passkeys<'a>(&'a self, person: &'a PersonId) -> PortFuture<'a, Vec<Credential>> {
        self.answer(|state| {
            state.person(person)?;
            let own = state.passkeys.iter().filter(|(owner, _)| owner == person);
            Ok(own.map(|(_, credential)| credential.clone()).collect())
        })
    }

    fn passkey_owner<'a>(&'a self, credential_id: &'a [u8]) -> PortFuture<'a, (ConsolePerson, Credential)> {
        self.answer(|state| {
            let (owner, credential) = state
                .passkeys
                .iter()
                .find(|(_, credential)| credential.id == credential_id)
                .cloned()
                .ok_or(PortError::NotFound)?;
            Ok((state.person(&owner)?, credential))
        })
    }

    fn note_login<'a>(
        &'a self,
        person: &'a PersonId,
        assertion: &'a VerifiedAssertion,
        challenge: &'a [u8; 32],
        _now: Timestamp,
    ) -> PortFuture<'a, ()> {
        self.answer(|state| {
            state.changes += 1;
            if !state.consumed.insert(*challenge) {
                return Err(PortError::Conflict);
            }
            state.store(person, assertion);
            Ok(())
        })
    }

    fn note_failed_login<'a>(&'a self, _credential_id: &'a [u8], _why: &'static str) -> PortFuture<'a, ()> {
        self.answer(|_| Ok(()))
    }

    fn note_cloned_passkey<'a>(
        &'a self,
        person: &'a PersonId,
        _credential_id: &'a [u8],
        _now: Timestamp,
    ) -> PortFuture<'a, ()> {
        self.answer(|state| {
            state.alarms.push(format!("apr.clone {person}"));
            Ok(())
        })
    }

    fn recent_decisions(&self, limit: usize) -> PortFuture<'_, Vec<DecisionRow>> {
        self.answer(|state| Ok(state.decisions.iter().take(limit).cloned().collect()))
    }
}
