//! The theft drills: everything that can be stolen or forged, tried against a running installation.
//!
//! Each drill starts from a call that works (the control), takes one thing away or swaps one thing, and says what
//! has to be seen: the protocol's own error, no byte upstream, exactly one record with the right code.

use std::io;

use countersign_proto::b64;
use countersign_proto::jose::SoftwareEd25519;
use serde_json::{Value, json};

use crate::drill::{Seen, Watch};
use crate::insider::{Answer, Caller, Insider, PROTOCOL, now, prove, tool_call};
use crate::world::{Machine, World};

/// One drill and what came of it.
#[derive(Debug)]
pub struct Drill {
    /// What the thief has.
    pub name: &'static str,
    /// What was sent.
    pub sent: &'static str,
    /// What has to be seen.
    pub expected: Expected,
    /// What was seen.
    pub seen: Seen,
}

/// What has to be seen of a refused attempt: besides this, no byte upstream and exactly one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// HTTP status.
    pub status: u16,
    /// The protocol's error.
    pub error: &'static str,
    /// The code in the record.
    pub code: &'static str,
    /// Whether the record raises an alarm.
    pub alarm: bool,
}

impl Drill {
    /// Whether exactly the expected was seen.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.seen.status == self.expected.status
            && self.seen.error == self.expected.error
            && self.seen.code == self.expected.code
            && self.seen.verdicts == 1
            && self.seen.upstream_bytes == 0
            && self.seen.alarm.is_some() == self.expected.alarm
    }
}

/// The stage: a run that works, with its session, and the accomplices.
#[derive(Debug)]
pub struct Stage<'a> {
    world: &'a World,
    insider: Insider,
    accomplice: Insider,
    token: String,
    session: String,
    short_token: String,
}

impl<'a> Stage<'a> {
    /// Sets the stage: agent `agent` runs on `laptop`; `other` is an enrolled, healthy machine; `short_task` ends soon.
    ///
    /// # Errors
    /// If the honest part does not work.
    pub async fn set(
        world: &'a World,
        laptop: &Machine,
        other: &Machine,
        agent: &str,
        task: &str,
        short_task: &str,
    ) -> io::Result<Self> {
        let insider = Insider::open(world.ready(), laptop, agent).await?;
        let short_token = insider.token(short_task).await?;
        let token = insider.token(task).await?;
        let session = insider.initialize(&token).await?;
        let accomplice = Insider::open(world.ready(), other, agent).await?;
        Ok(Self { world, insider, accomplice, token, session, short_token })
    }

    /// The honest call that every drill bends.
    fn body() -> Value {
        tool_call(7, "notes.read", &json!({ "topic": "roadmap" }))
    }

    async fn send(&self, caller: &Caller, token: &str, proof: Option<&str>) -> io::Result<Answer> {
        let authorization = format!("DPoP {token}");
        let mut headers = vec![
            ("authorization", authorization.as_str()),
            ("mcp-session-id", self.session.as_str()),
            ("mcp-protocol-version", PROTOCOL),
        ];
        headers.extend(proof.map(|proof| ("dpop", proof)));
        caller.call(&self.insider.url(), &headers, &Self::body()).await
    }

    fn proof(&self, token: &str) -> io::Result<String> {
        self.insider.proof_for("POST", &self.insider.url(), Some(token))
    }

    /// The control: the same call with nothing taken away. It has to reach the tool.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn control(&self) -> io::Result<Seen> {
        let watch = Watch::begin(self.world)?;
        let proof = self.proof(&self.token)?;
        watch.end(self.send(&self.insider.caller, &self.token, Some(&proof)).await?)
    }

    /// All drills that leave the installation as it was.
    ///
    /// # Errors
    /// If the world does not answer; a drill that is not refused is no error, but does not hold.
    pub async fn drills(&self) -> io::Result<Vec<Drill>> {
        let anonymous = Caller::anonymous(self.world.ready())?;
        let mut drills = Vec::new();
        let mut note = |name, sent, expected, seen| drills.push(Drill { name, sent, expected, seen });

        let watch = Watch::begin(self.world)?;
        let seen = watch.end(self.send(&anonymous, &self.token, None).await?)?;
        note(
            "stolen token alone",
            "token, from elsewhere",
            refused("invalid_dpop_proof", "pop.missing"),
            seen,
        );

        let watch = Watch::begin(self.world)?;
        let proof = self.proof(&self.token)?;
        let seen = watch.end(self.send(&anonymous, &self.token, Some(&proof)).await?)?;
        note(
            "stolen token and key A",
            "token and fresh proof, from no machine",
            alarming("invalid_token", "pop.no_machine"),
            seen,
        );

        let watch = Watch::begin(self.world)?;
        let proof = self.proof(&self.token)?;
        let seen = watch.end(self.send(&self.accomplice.caller, &self.token, Some(&proof)).await?)?;
        note(
            "stolen token and key A, other enrolled machine",
            "token and fresh proof, over another machine's certificate",
            alarming("invalid_token", "bind.machine_key"),
            seen,
        );

        let proof = self.proof(&self.token)?;
        self.send(&self.insider.caller, &self.token, Some(&proof)).await?;
        let watch = Watch::begin(self.world)?;
        let seen = watch.end(self.send(&self.insider.caller, &self.token, Some(&proof)).await?)?;
        note(
            "replayed proof",
            "a proof that was used a moment ago",
            alarming("invalid_dpop_proof", "pop.replayed"),
            seen,
        );

        let watch = Watch::begin(self.world)?;
        let for_other_token = self.proof(&self.short_token)?;
        let seen = watch.end(self.send(&self.insider.caller, &self.token, Some(&for_other_token)).await?)?;
        note(
            "proofs of two requests combined",
            "one request's token with another's proof",
            refused("invalid_dpop_proof", "pop.invalid"),
            seen,
        );

        let watch = Watch::begin(self.world)?;
        let thief = SoftwareEd25519::generate().map_err(io::Error::other)?;
        let proof = prove(&thief, "POST", &self.insider.url(), Some(&self.token), now())?;
        let seen = watch.end(self.send(&self.insider.caller, &self.token, Some(&proof)).await?)?;
        note(
            "token with the thief's own key",
            "token and a proof by another key",
            alarming("invalid_token", "bind.agent_key"),
            seen,
        );

        for (name, sent, forged) in [
            ("forged token, alg none", "the token's claims, unsigned", forge_none(&self.token)?),
            (
                "forged token, HS256",
                "the token's claims, MACed with the public key",
                self.forge_hs256().await?,
            ),
        ] {
            let watch = Watch::begin(self.world)?;
            let proof = self.proof(&forged)?;
            let seen = watch.end(self.send(&self.insider.caller, &forged, Some(&proof)).await?)?;
            note(name, sent, refused("invalid_token", "token.invalid"), seen);
        }

        let expiry = expires_at(&self.short_token)?;
        wait_until_past(expiry).await;
        let watch = Watch::begin(self.world)?;
        let proof = self.proof(&self.short_token)?;
        let seen = watch.end(self.send(&self.insider.caller, &self.short_token, Some(&proof)).await?)?;
        note(
            "expired token",
            "a token of a minute ago, with fresh proof",
            refused("invalid_token", "token.expired"),
            seen,
        );
        Ok(drills)
    }

    /// The drills that end something: the machine is revoked, then the agent killed.
    ///
    /// # Errors
    /// As [`Stage::drills`].
    pub async fn last_drills(&self, machine: &str, agent: &str) -> io::Result<Vec<Drill>> {
        let mut drills = Vec::new();
        self.world.cli(&["machine", "revoke", machine])?;
        let seen = self.settled("machine.revoked").await?;
        drills.push(Drill {
            name: "token after the machine was revoked",
            sent: "token and fresh proof, from the revoked machine",
            expected: refused("invalid_token", "machine.revoked"),
            seen,
        });
        self.world.cli(&["agent", "kill", agent])?;
        let seen = self.settled("agent.killed").await?;
        drills.push(Drill {
            name: "token after the agent was killed",
            sent: "token and fresh proof, with the killed run's key",
            expected: refused("invalid_token", "agent.killed"),
            seen,
        });
        Ok(drills)
    }

    /// Tries until the gateway has the new snapshot (it has a second to get it) and gives the last attempt.
    async fn settled(&self, code: &str) -> io::Result<Seen> {
        let deadline = now().plus_millis(1_000);
        loop {
            let watch = Watch::begin(self.world)?;
            let proof = self.proof(&self.token)?;
            let seen = watch.end(self.send(&self.insider.caller, &self.token, Some(&proof)).await?)?;
            if seen.code == code || now() > deadline {
                return Ok(seen);
            }
        }
    }

    /// The classic confusion: the verifier's public key used as a MAC key.
    async fn forge_hs256(&self) -> io::Result<String> {
        let request = http::Request::get("/oauth/jwks")
            .body(http_body_util::Full::default())
            .map_err(io::Error::other)?;
        let jwks = self.insider.caller.to_server(request).await?;
        let keys = jwks.json();
        let (x, y) = (
            keys["keys"][0]["x"].as_str().unwrap_or_default(),
            keys["keys"][0]["y"].as_str().unwrap_or_default(),
        );
        let mut public = vec![4_u8];
        public.extend(b64::url_decode(x).map_err(io::Error::other)?);
        public.extend(b64::url_decode(y).map_err(io::Error::other)?);
        let kid = keys["keys"][0]["kid"].as_str().unwrap_or_default();
        let header = json!({ "alg": "HS256", "typ": "at+jwt", "kid": kid }).to_string();
        let signing_input = format!("{}.{}", b64::url_encode(header.as_bytes()), claims(&self.token)?);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
        let mac = aws_lc_rs::hmac::sign(&key, signing_input.as_bytes());
        Ok(format!("{signing_input}.{}", b64::url_encode(mac.as_ref())))
    }

    /// The run behind the drills, for what a test wants to try besides.
    #[must_use]
    pub fn insider(&self) -> &Insider {
        &self.insider
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Its MCP session.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }
}

const fn refused(error: &'static str, code: &'static str) -> Expected {
    Expected { status: 401, error, code, alarm: false }
}

/// As [`refused`], and the attempt itself proves that something was stolen.
const fn alarming(error: &'static str, code: &'static str) -> Expected {
    Expected { alarm: true, ..refused(error, code) }
}

fn claims(token: &str) -> io::Result<&str> {
    token.split('.').nth(1).ok_or_else(|| io::Error::other("the token has no claims"))
}

fn forge_none(token: &str) -> io::Result<String> {
    let header = b64::url_encode(json!({ "alg": "none", "typ": "at+jwt" }).to_string().as_bytes());
    Ok(format!("{header}.{}.", claims(token)?))
}

/// When a token ends, in seconds since the epoch.
fn expires_at(token: &str) -> io::Result<i64> {
    let bytes = b64::url_decode(claims(token)?).map_err(io::Error::other)?;
    let claims: Value = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    claims["exp"].as_i64().ok_or_else(|| io::Error::other("the token never ends"))
}

/// Waits until an instant has passed, with the gateway's tolerance for skewed clocks: the passing of time is the
/// very thing that the drill is about.
async fn wait_until_past(unix_secs: i64) {
    const SKEW_SECS: i64 = 6;
    let left = (unix_secs + SKEW_SECS) * 1000 - now().unix_millis();
    if left > 0 {
        let left = std::time::Duration::from_millis(u64::try_from(left).unwrap_or(0));
        tokio::time::sleep(left).await;
    }
}
