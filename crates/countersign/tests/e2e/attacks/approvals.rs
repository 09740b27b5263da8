//! APR: a yes is for one call, by somebody else than who asked, and is good once. Without a browser, so that steps can
//! be taken in the wrong order or at the same moment; with one, the story plays it.
//!
//! That an approval expires takes five minutes here; `unanswered_requests_expire_and_a_kill_cancels_them`
//! (server/approval) does it on a clock of its own.

use countersign_proto::id::ApprovalId;
use countersign_testkit::insider::{Answer, tool_call};
use countersign_testkit::person::Person;
use countersign_testkit::story::AGENT;
use countersign_testkit::world::World;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Scene;
use crate::block_on;

struct Play {
    scene: Scene,
    sponsor: Person,
    approver: Person,
}

impl Play {
    fn new() -> Self {
        let mut scene = Scene::new();
        let world = &scene.stage.world;
        let invite = |person: &str| {
            let answer: Value = countersign_server::admin::client::call(
                &world.ready().admin,
                "POST",
                &format!("/admin/v1/persons/{person}/invite"),
                &json!({}),
            )
            .expect("an invitation");
            answer["url"].as_str().expect("its link").to_owned()
        };
        world.add_person("ada").expect("a person");
        let mut sponsor = Person::new(world.ready()).expect("a person");
        let mut approver = Person::new(world.ready()).expect("a person");
        block_on(async {
            sponsor.join(&invite("sam")).await.expect("the sponsor joins");
            approver.join(&invite("ada")).await.expect("the approver joins");
        });
        let tools = json!([{ "name": "payments.refund", "args": { "cents": { "max": 10_000 } } }]);
        scene.task = world.add_task(AGENT, &tools, 5_000, 3600).expect("a task");
        (scene.token, scene.session) = block_on(async {
            let token = scene.insider.token(&scene.task).await.expect("a token");
            let session = scene.insider.initialize(&token).await.expect("a session");
            (token, session)
        });
        Self { scene, sponsor, approver }
    }

    fn world(&self) -> &World {
        &self.scene.stage.world
    }

    /// Asks for a refund of `cents`; gives the approval that is now waiting.
    async fn ask(&self, cents: u32) -> String {
        let answer = self.call(&arguments(cents), None).await;
        assert_eq!(answer.status, 403, "{}", answer.json());
        let waiting = answer.json()["error"]["data"].clone();
        assert_eq!(waiting["code"], "approval.required", "{waiting}");
        let id = waiting["approval"]["id"].as_str().expect("an approval").to_owned();
        ApprovalId::parse(&id).expect("an id");
        id
    }

    async fn call(&self, arguments: &Value, approval: Option<&str>) -> Answer {
        self.send(tool_call(1, "payments.refund", arguments).to_string(), approval).await
    }

    async fn send(&self, body: String, approval: Option<&str>) -> Answer {
        self.scene
            .post(body.as_bytes(), |headers| {
                headers.extend(approval.map(|id| ("countersign-approval".to_owned(), id.to_owned())));
            })
            .await
    }

    fn refunds(&self) -> usize {
        let stats = self.world().upstream_stats().expect("counters");
        stats["calls"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|call| call["tool"] == "payments.refund")
            .count()
    }

    fn state(&self, id: &str) -> String {
        let listed = self.world().cli(&["approval", "list"]).expect("the approvals");
        let approval = listed["approvals"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|approval| approval["id"] == id)
            .cloned();
        approval.expect("it is listed")["state"].as_str().expect("a state").to_owned()
    }
}

fn arguments(cents: u32) -> Value {
    json!({ "account": "acme", "cents": cents, "reason": "double charge" })
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["data"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_yes_is_for_one_call_by_somebody_else_and_good_once() {
    let mut play = Play::new();
    nobody_approves_their_own_request(&mut play);
    a_yes_is_for_exactly_these_arguments(&mut play);
    of_twenty_at_once_one_goes_through(&mut play);
    a_no_is_final(&mut play);
    yes_and_no_at_once_end_in_one_of_them(&mut play);
    a_yes_has_to_be_signed_for_this_question(&mut play);
    a_killed_agents_approval_is_worth_nothing(&mut play);
    let log = play.world().ready().log.display().to_string();
    play.world().cli(&["audit", "invariants", &log]).expect("the invariants hold");
}

/// APR-04.
fn nobody_approves_their_own_request(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let id = play.ask(100).await;
        let answer = play.sponsor.approve(&id).await.expect("an answer");
        assert_eq!(answer.status, 403, "the sponsor approved its own agent's call");
        let answer = play.sponsor.say_no(&id).await.expect("an answer");
        assert_eq!(answer.status, 403, "nor refuses it: there are other ways to stop one's own agent");
        // The control: somebody else may.
        let id = play.ask(101).await;
        let answer = play.approver.approve(&id).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.json());
        let answer = play.call(&arguments(101), Some(&id)).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    });
    assert_eq!(play.refunds() - before, 1);
}

/// APR-01.
fn a_yes_is_for_exactly_these_arguments(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let id = play.ask(200).await;
        assert_eq!(play.approver.approve(&id).await.expect("an answer").status, 200);
        let changed = [
            json!({ "account": "acme", "cents": 201, "reason": "double charge" }),
            json!({ "account": "acme", "cents": 200, "reason": "double charge " }),
            json!({ "account": "Acme", "cents": 200, "reason": "double charge" }),
            json!({ "account": "acme", "cents": 200 }),
            json!({ "account": "acme", "cents": 200, "reason": "double charge", "note": "x" }),
            json!({ "account": "acme", "cents": "200", "reason": "double charge" }),
            json!({}),
        ];
        for arguments in changed {
            let answer = play.call(&arguments, Some(&id)).await;
            assert_ne!(answer.status, 200, "{arguments} went through");
            let code = code(&answer);
            assert!(
                ["approval.digest", "tool.arguments", "task.args"].contains(&code.as_str()),
                "{arguments}: {code}"
            );
        }
        // Another approval's name, made up or real, is no yes either.
        let other = play.ask(202).await;
        assert_eq!(code(&play.call(&arguments(200), Some(&other)).await), "approval.digest");
        assert_eq!(
            code(&play.call(&arguments(200), Some("apr_AAAAAAAAAAAAAAAAAAAAAA")).await),
            "approval.digest"
        );
        assert_eq!(play.refunds(), before, "something went through");
        // The same value written another way is the same call: key order, number form.
        let body = r#"{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{"reason":"double charge","cents":2.0e2,"account":"acme"},"name":"payments.refund"}}"#;
        let answer = play.send(body.to_owned(), Some(&id)).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        // And it is spent.
        let again = play.call(&arguments(200), Some(&id)).await;
        assert_eq!((again.status, code(&again).as_str()), (403, "approval.spent"));
        assert_eq!(
            play.approver.approve(&id).await.expect("an answer").status,
            410,
            "a spent question can be answered"
        );
    });
    assert_eq!(play.refunds() - before, 1);
}

/// APR-02.
fn of_twenty_at_once_one_goes_through(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let id = play.ask(300).await;
        assert_eq!(play.approver.approve(&id).await.expect("an answer").status, 200);
        let arguments = arguments(300);
        let answers = join_all((0..20).map(|_| play.call(&arguments, Some(&id)))).await;
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        let spent = answers.iter().filter(|answer| code(answer) == "approval.spent").count();
        assert_eq!((passed, spent), (1, 19));
    });
    assert_eq!(play.refunds() - before, 1, "the tool server counts one");
}

/// APR-07: a no after a question, and a yes after a no.
fn a_no_is_final(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let id = play.ask(400).await;
        // The page is open and the challenge is given out; then the no, then the signature.
        let offer = play.approver.begin(&id).await.expect("an answer");
        assert_eq!(offer.status, 200);
        assert_eq!(play.approver.say_no(&id).await.expect("an answer").status, 303);
        let late = play.approver.sign(&id, &offer.json()).await.expect("an answer");
        assert_eq!(late.status, 410, "a yes after a no: {}", late.json());
        assert_eq!(play.state(&id), "refused");
        let answer = play.call(&arguments(400), Some(&id)).await;
        assert_eq!(code(&answer), "approval.refused");
        assert_eq!(play.state(&id), "refused", "final");
    });
    assert_eq!(play.refunds(), before);
}

/// APR-07: a yes of one and a no of another, at the same moment.
fn yes_and_no_at_once_end_in_one_of_them(play: &mut Play) {
    const ROUNDS: u32 = 10;
    let before = play.refunds();
    let mut granted = 0;
    let mut other = Person::new(play.world().ready()).expect("a person");
    let invite = play.world().add_person("eve").expect("an invitation");
    block_on(async {
        other.join(&invite).await.expect("another approver");
        for round in 0..ROUNDS {
            let cents = 500 + round;
            let id = play.ask(cents).await;
            let offer = play.approver.begin(&id).await.expect("an answer").json();
            other.open(&format!("/approvals/{id}")).await.expect("its page");
            let (yes, no) = tokio::join!(play.approver.sign(&id, &offer), other.say_no(&id));
            let (yes, no) = (yes.expect("an answer").status, no.expect("an answer").status);
            let state = play.state(&id);
            // Whoever was told that it is done was told the truth: a no that was accepted stays.
            match (yes, no, state.as_str()) {
                (200 | 409 | 410, 303, "refused") | (200, 409 | 410, "granted") => {}
                other => panic!("round {round}: {other:?}"),
            }
            let answer = play.call(&arguments(cents), Some(&id)).await;
            let expected = if state == "granted" { 200 } else { 403 };
            assert_eq!(answer.status, expected, "round {round}, {state}: {}", answer.json());
            granted += usize::from(state == "granted");
        }
    });
    assert_eq!(play.refunds() - before, granted);
    println!("{granted} of {ROUNDS} races ended in a yes");
}

/// APR-11: a challenge is for one question, one session, and once.
fn a_yes_has_to_be_signed_for_this_question(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let (one, two) = (play.ask(600).await, play.ask(601).await);
        let offer = play.approver.begin(&one).await.expect("an answer").json();
        let answer = play.approver.sign(&two, &offer).await.expect("an answer");
        assert_eq!(answer.status, 403, "a yes to one question answered another");
        let answer = play.approver.sign(&one, &offer).await.expect("an answer");
        assert_eq!(answer.status, 403, "a challenge was good twice");
        assert_eq!((play.state(&one).as_str(), play.state(&two).as_str()), ("asked", "asked"));
        let mut stranger = Person::new(play.world().ready()).expect("a person");
        stranger.open("/login").await.expect("a page");
        let offer = play.approver.begin(&one).await.expect("an answer").json();
        let answer = stranger.sign(&one, &offer).await.expect("an answer");
        assert!((401..=403).contains(&answer.status), "a stranger's yes: {}", answer.status);
        assert_eq!(play.state(&one), "asked");
    });
    assert_eq!(play.refunds(), before);
}

/// A kill ends what was granted before it.
fn a_killed_agents_approval_is_worth_nothing(play: &mut Play) {
    let before = play.refunds();
    block_on(async {
        let id = play.ask(700).await;
        assert_eq!(play.approver.approve(&id).await.expect("an answer").status, 200);
        play.world().cli(&["agent", "kill", AGENT]).expect("killed");
        let answer = play.call(&arguments(700), Some(&id)).await;
        assert_ne!(answer.status, 200, "{}", answer.json());
        assert_eq!(play.state(&id), "expired");
    });
    assert_eq!(play.refunds(), before);
}
