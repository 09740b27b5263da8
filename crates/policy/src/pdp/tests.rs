//! What `pdp` lets through and what it refuses.

use countersign_proto::id::{MachineId, PersonId};
use countersign_proto::json::{self, Limits};
use countersign_proto::oauth::Acr;
use countersign_proto::snapshot::{AgentState, ToolEntry};

use super::*;
use crate::lint::Rule;
use crate::situation::AgentProofKind;

/// Tools as `name state schema`, one per line.
const TOOLS: &str = r#"
    read pinned {"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}
    restart pinned {"type":"object"}
    pay pinned {"type":"object","properties":{"amount":{"type":"number"},"target":{"type":"string"}},"required":["amount"],"additionalProperties":false}
    deploy pinned {"type":"object","properties":{"target":{"type":"string"}}}
    wipe pinned {"type":"object"}
    reset pinned {"type":"object"}
    count pinned {"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}
    fresh proposed {"type":"object"}
    moved changed {"type":"object"}
"#;

/// The tools of the reference server that the example policies speak of, as it declares them.
const EVERYTHING: &str = r#"
    echo pinned {"type":"object","properties":{"message":{"type":"string","description":"Message to echo"}},"required":["message"]}
    get-env pinned {"type":"object","properties":{}}
    get-sum pinned {"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]}
    trigger-long-running-operation pinned {"type":"object","properties":{"duration":{"type":"number","default":10},"steps":{"type":"number","default":5}},"required":["duration","steps"]}
"#;

fn bundle(cedar: &str) -> PolicyBundle {
    PolicyBundle { revision: 7, cedar: cedar.to_owned(), digest: Sha256Digest::of(cedar.as_bytes()) }
}

fn agents() -> BTreeMap<AgentId, AgentEntry> {
    let agent = |id: &str, groups: &[&str]| {
        let entry = AgentEntry {
            state: AgentState::Active,
            generation: 1,
            groups: groups.iter().map(ToString::to_string).collect(),
            sponsor: PersonId::parse("ada").unwrap(),
        };
        (AgentId::parse(id).unwrap(), entry)
    };
    [agent("bob", &["builders"]), agent("ops", &["operators", "on call"]), agent("eve", &[])].into()
}

fn upstreams(id: &str, tools: &str) -> BTreeMap<UpstreamId, UpstreamEntry> {
    let tools = tools.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        let name = ToolName::parse(word()).unwrap();
        let state = match word() {
            "pinned" => ToolState::Pinned,
            "proposed" => ToolState::Proposed,
            other => {
                assert_eq!(other, "changed");
                ToolState::Changed
            }
        };
        let input_schema = json::parse(word().as_bytes(), &Limits::DEFAULT).unwrap();
        (name, ToolEntry { digest: Sha256Digest::of(b"tool"), state, input_schema })
    });
    let entry = UpstreamEntry { resource: format!("https://gw.example/mcp/{id}"), tools: tools.collect() };
    [(UpstreamId::parse(id).unwrap(), entry)].into()
}

fn call(upstream: &str, tool: &str, arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse(upstream).unwrap(),
        tool: ToolName::parse(tool).unwrap(),
        arguments: json::parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

fn situation(agent: &str, level: &str, attested_age_secs: i64, agent_proof: AgentProofKind) -> Situation {
    Situation {
        agent: AgentId::parse(agent).unwrap(),
        machine: MachineId::parse("m-1").unwrap(),
        level: Acr::parse_short(level).unwrap(),
        attested_age_secs,
        agent_proof,
        task: "task_1".to_owned(),
        purpose: "build".to_owned(),
        calls_used: 0,
    }
}

fn shown(judgement: &Judgement) -> String {
    match &judgement.outcome {
        Outcome::Permit => "permit".to_owned(),
        Outcome::Deny(code) => code.to_string(),
        Outcome::Challenge(needs) => {
            let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
            format!("? {}", needs.join(" "))
        }
    }
}

fn matrix() -> String {
    let pdp = Pdp::compile(
        &bundle(include_str!("../../testdata/matrix.cedar")),
        &agents(),
        &upstreams("tools", TOOLS),
    )
    .unwrap();
    let calls = [
        ("tools", "read", r#"{"path":"/a","note":1}"#),
        ("tools", "read", r#"{"path":1}"#),
        ("tools", "restart", "{}"),
        ("tools", "pay", r#"{"amount":100}"#),
        ("tools", "pay", r#"{"amount":100.0001}"#),
        ("tools", "pay", r#"{"amount":100.00001}"#),
        ("tools", "pay", r#"{"amount":1,"memo":"x"}"#),
        ("tools", "pay", r#"{"amount":500,"target":"prod-root"}"#),
        ("tools", "deploy", "{}"),
        ("tools", "wipe", "{}"),
        ("tools", "reset", "{}"),
        ("tools", "count", r#"{"n":0}"#),
        ("tools", "count", r#"{"n":1}"#),
        ("tools", "fresh", "{}"),
        ("tools", "moved", "{}"),
        ("tools", "ghost", "{}"),
        ("other", "read", r#"{"path":"/a"}"#),
    ];
    let dpop = AgentProofKind::Dpop;
    let situations = [
        ("bob, attested now", situation("bob", "e3u1", 0, dpop)),
        ("bob, 30 s ago", situation("bob", "e3u1", 30, dpop)),
        ("bob, 31 s ago", situation("bob", "e3u1", 31, dpop)),
        ("bob, 301 s ago", situation("bob", "e3u1", 301, dpop)),
        ("bob, 301 s ago, signed", situation("bob", "e3u3", 301, dpop)),
        ("bob, e2, signed", situation("bob", "e2u3", 0, dpop)),
        ("bob, e0u0", situation("bob", "e0u0", 301, dpop)),
        ("bob, e4u3", situation("bob", "e4u3", 0, dpop)),
        ("bob, per connection", situation("bob", "e3u1", 301, AgentProofKind::Channel)),
        ("eve, in no group", situation("eve", "e4u3", 0, dpop)),
        ("mallory, not registered", situation("mallory", "e4u3", 0, dpop)),
    ];
    let mut text = String::from(
        "# What policy says: testdata/matrix.cedar, one block per call, one line per situation.\n",
    );
    for (upstream, tool, arguments) in calls {
        text.push_str(&format!("\n{upstream}/{tool} {arguments}\n"));
        for (name, situation) in &situations {
            let judgement = pdp.judge(situation, &call(upstream, tool, arguments));
            let policies = [judgement.determining.join(" "), judgement.errors.join(" ")].join(" ");
            let line = format!("    {name:<26}{:<36}{}", shown(&judgement), policies.trim());
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_decision_matrix_is_as_written() {
    let expected = include_str!("../../testdata/decisions.txt");
    let actual = matrix();
    let differs =
        (1..).zip(expected.lines().zip(actual.lines())).find(|(_, (expected, actual))| expected != actual);
    assert!(
        expected == actual,
        "testdata/decisions.txt differs first at {differs:?}; it would now read:\n{actual}"
    );
}

#[track_caller]
fn refused(cedar: &str, expected: &str) {
    let compiled = Pdp::compile(&bundle(cedar), &agents(), &upstreams("tools", TOOLS));
    let error = compiled.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.starts_with(expected), "{cedar}\n{error}");
}

#[test]
fn a_policy_that_does_not_fit_is_refused_by_name() {
    let forbid = |action: &str, condition: &str| {
        format!(
            "@id(\"p\") forbid(principal, action == Action::\"tools/{action}\", resource) when {{ {condition} }};"
        )
    };
    refused(&forbid("pay", "context.args.amount > 5"), "policy p: ");
    refused(&forbid("pay", "context.args.target == \"x\""), "policy p: ");
    refused(&forbid("pay", "context.args.ammount == \"x\""), "policy p: ");
    refused(&forbid("pay", "context.approved"), "policy p: ");
    refused(&forbid("pay", "context.machine.attested_age == \"x\""), "policy p: ");
    refused(&forbid("pai", "true"), "policy p: ");
    refused(&forbid("pay", "false"), "policy p: ");
    refused("@id(\"p\") permit(principal == User::\"x\", action, resource);", "policy p: ");
    refused("@id(\"p\") permit(principal, action, resource in Upstream::\"раy\u{202e}\");", "policy p: ");
    refused("permit(principal, action, resource);", "the policy number 1 has no valid @id");
}

/// Cedar's validator says nothing about what is too deep for its stack; the scan before it must leave a margin.
#[test]
fn what_the_scan_lets_through_is_validated_to_its_depths() {
    let nested = |open: &str, close: &str, times: usize| {
        format!("{}context.nope == 1{}", open.repeat(times), close.repeat(times))
    };
    let sums = (0..12).fold("context.nope".to_owned(), |inner, _| format!("({inner} + 1 + 1 + 1 + 1)"));
    for condition in [
        format!("context.nope{} == 1", " + 1".repeat(61)),
        format!("{sums} == 1"),
        nested("(", ")", 15),
        nested("if true then ", " else false", 60),
        nested("[!!!true].contains(!!!", ")", 14),
        nested("[true].contains(true && true && ", ")", 14),
        format!("context{}", ".nope".repeat(62)),
    ] {
        let cedar = format!("@id(\"p\") forbid(principal, action, resource) when {{ {condition} }};");
        let compiled = Pdp::compile(&bundle(&cedar), &agents(), &upstreams("tools", TOOLS));
        assert!(matches!(compiled, Err(PolicyError::Invalid { .. })), "{condition}");
    }
}

#[test]
fn what_is_odd_is_found_and_not_refused() {
    let found = |cedar: &str| -> Vec<Rule> {
        let pdp = Pdp::compile(&bundle(cedar), &agents(), &upstreams("tools", TOOLS)).unwrap();
        pdp.findings().iter().map(|finding| finding.rule).collect()
    };
    assert_eq!(found(include_str!("../../testdata/matrix.cedar")), [Rule::CannotBeMet, Rule::CannotBeMet]);
    assert_eq!(
        found("@id(\"p\") permit(principal in AgentGroup::\"typo\", action, resource);"),
        [Rule::UnknownName]
    );
    assert_eq!(
        found("@id(\"p\") permit(principal == Agent::\"bob\", action, resource) when { false };"),
        [Rule::NeverApplies]
    );
}

#[test]
fn policies_may_be_written_before_the_tools_are_there() {
    let cedar = r#"
        @id("some") permit(principal in AgentGroup::"builders", action in Action::"call", resource in Upstream::"tools");
        @id("later") forbid(principal, action == Action::"later/pay", resource) when { context.args.amount > 5 };
        @id("later-too") forbid(principal, action in [Action::"later/a", Action::"later/b"], resource);
    "#;
    let mut upstreams = upstreams("tools", TOOLS);
    upstreams.extend(self::upstreams("later", ""));
    let pdp = Pdp::compile(&bundle(cedar), &agents(), &upstreams).unwrap();
    let dormant: Vec<(&str, Rule)> =
        pdp.findings().iter().map(|finding| (finding.policy.as_str(), finding.rule)).collect();
    assert_eq!(dormant, [("later", Rule::Dormant), ("later-too", Rule::Dormant)]);
    let bob = situation("bob", "e3u1", 0, AgentProofKind::Dpop);
    assert_eq!(shown(&pdp.judge(&bob, &call("tools", "restart", "{}"))), "permit");
    assert_eq!(shown(&pdp.judge(&bob, &call("later", "pay", "{}"))), "tool.unknown");

    let nothing = Pdp::compile(&bundle(cedar), &agents(), &BTreeMap::new()).unwrap();
    assert_eq!(shown(&nothing.judge(&bob, &call("tools", "restart", "{}"))), "tool.unknown");

    // An upstream that has shown its tools has no others: the name is wrong.
    refused(&cedar.replace("later/", "tools/"), "policy later");
}

#[test]
fn a_tool_nobody_reviewed_cannot_break_the_policies() {
    let cedar = r#"
        @id("all") permit(principal in AgentGroup::"builders", action in Action::"call", resource in Upstream::"tools");
        @id("paths") forbid(principal, action in Action::"call", resource in Upstream::"tools")
        when { context.args has path && context.args.path like "/etc/*" };
        @id("both") forbid(principal, action in [Action::"tools/read", Action::"tools/fresh"], resource)
        when { context.args has path && context.args.path == "/root" };
        @id("waits") forbid(principal, action == Action::"tools/fresh", resource) when { context.args.path == 1 };
    "#;
    let hostile =
        r#"fresh proposed {"type":"object","properties":{"path":{"type":"integer"}},"required":["path"]}"#;
    let hostile = TOOLS.replace(r#"fresh proposed {"type":"object"}"#, hostile);
    assert_ne!(hostile, TOOLS);
    let pdp = Pdp::compile(&bundle(cedar), &agents(), &upstreams("tools", &hostile)).unwrap();
    let found: Vec<(&str, Rule)> =
        pdp.findings().iter().map(|finding| (finding.policy.as_str(), finding.rule)).collect();
    assert_eq!(found, [("waits", Rule::Dormant)]);
    let bob = situation("bob", "e3u1", 0, AgentProofKind::Dpop);
    let read =
        |path: &str| shown(&pdp.judge(&bob, &call("tools", "read", &format!(r#"{{"path":"{path}"}}"#))));
    assert_eq!(
        [read("/a"), read("/etc/passwd"), read("/root")],
        ["permit", "policy.denied", "policy.denied"]
    );
    assert_eq!(shown(&pdp.judge(&bob, &call("tools", "fresh", r#"{"path":1}"#))), "tool.unknown");
    // Once somebody reviews it, its declaration counts, and then the policies have to fit.
    let reviewed = upstreams("tools", &hostile.replace("fresh proposed", "fresh pinned"));
    assert!(matches!(Pdp::compile(&bundle(cedar), &agents(), &reviewed), Err(PolicyError::Invalid { .. })));
}

#[test]
fn without_policies_everything_is_denied() {
    let pdp = Pdp::compile(&bundle(""), &agents(), &upstreams("tools", TOOLS)).unwrap();
    let bob = situation("bob", "e4u3", 0, AgentProofKind::Dpop);
    assert_eq!(shown(&pdp.judge(&bob, &call("tools", "restart", "{}"))), "policy.denied");
}

#[test]
fn a_tool_is_listed_only_if_it_is_reviewed_and_some_permit_could_apply() {
    let cedar = r#"
        @id("read") permit(principal in AgentGroup::"builders", action == Action::"tools/read", resource) when { context.person.level > 2 };
        @id("all") permit(principal in AgentGroup::"operators", action, resource in Upstream::"tools");
        @id("no") forbid(principal == Agent::"eve", action, resource);
    "#;
    let pdp = Pdp::compile(&bundle(cedar), &agents(), &upstreams("tools", TOOLS)).unwrap();
    let listed = |agent: &str| -> Vec<&str> {
        let (agent, upstream) = (AgentId::parse(agent).unwrap(), UpstreamId::parse("tools").unwrap());
        let names = ["read", "restart", "pay", "deploy", "wipe", "reset", "count", "fresh", "moved", "ghost"];
        let names = names.into_iter();
        names.filter(|name| pdp.could_permit(&agent, &upstream, &ToolName::parse(name).unwrap())).collect()
    };
    assert_eq!(listed("bob"), ["read"]);
    assert_eq!(listed("ops"), ["read", "restart", "pay", "deploy", "wipe", "reset", "count"]);
    assert_eq!(listed("eve"), [""; 0]);
    assert_eq!(listed("mallory"), [""; 0]);
}

#[test]
fn the_example_policies_hold_what_they_say() {
    let everything = upstreams("everything", EVERYTHING);
    let demo = include_str!("../../../../examples/policies/demo.cedar");
    let arguments = include_str!("../../../../examples/policies/arguments.cedar");
    let check =
        |cedar: &str, agent: &str, level: &str, age: i64, tool: &str, arguments: &str, expected: &str| {
            let pdp = Pdp::compile(&bundle(cedar), &agents(), &everything).unwrap();
            assert_eq!(pdp.findings(), [], "examples have nothing odd");
            let situation = situation(agent, level, age, AgentProofKind::Channel);
            assert_eq!(
                shown(&pdp.judge(&situation, &call("everything", tool, arguments))),
                expected,
                "{tool} {arguments}"
            );
        };
    check(demo, "bob", "e2u1", 250, "echo", r#"{"message":"hi"}"#, "permit");
    check(demo, "ops", "e3u3", 0, "echo", r#"{"message":"hi"}"#, "policy.denied");
    check(demo, "bob", "e3u1", 250, "get-env", "{}", "? fresh_attestation:30");
    check(demo, "bob", "e3u1", 3, "get-env", "{}", "permit");
    check(demo, "bob", "e3u1", 3, "get-sum", r#"{"a":2,"b":3}"#, "? approval");
    check(demo, "bob", "e3u3", 3, "get-sum", r#"{"a":2,"b":3}"#, "permit");
    check(demo, "bob", "e3u3", 3, "get-sum", r#"{"a":2,"b":"3"}"#, "tool.arguments");
    check(demo, "bob", "e3u1", 3, "trigger-long-running-operation", "{}", "permit");
    check(arguments, "ops", "e3u1", 0, "get-sum", r#"{"a":1000,"b":0.5}"#, "permit");
    check(arguments, "ops", "e3u1", 0, "get-sum", r#"{"a":1000.5,"b":0}"#, "? approval");
    check(arguments, "ops", "e2u0", 0, "get-sum", r#"{"a":1000.5,"b":0}"#, "? acr:e3u1 approval");
    check(
        arguments,
        "ops",
        "e3u1",
        0,
        "echo",
        r#"{"message":"-----BEGIN EC PRIVATE KEY-----"}"#,
        "policy.denied",
    );
    check(
        arguments,
        "ops",
        "e3u1",
        0,
        "trigger-long-running-operation",
        r#"{"duration":61}"#,
        "policy.denied",
    );
    check(arguments, "ops", "e3u1", 0, "trigger-long-running-operation", "{}", "permit");
}

/// Not a test of speed: prints what `judge` costs, for whoever asks with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a claim"]
#[expect(clippy::disallowed_methods, reason = "measures elapsed time")]
fn what_a_judgement_costs() {
    for count in [10, 1_000, 10_000] {
        let mut cedar = String::from(
            "@id(\"ok\") permit(principal in AgentGroup::\"builders\", action in Action::\"call\", resource in Upstream::\"tools\");",
        );
        for at in 1..count {
            cedar.push_str(&format!(
                "@id(\"p{at}\") permit(principal in AgentGroup::\"g{at}\", action, resource in Upstream::\"tools\") \
                 when {{ context.machine.level >= 3 && context.machine.attested_age < 300 && context.person.level > 0 }};\n"
            ));
        }
        let started = std::time::Instant::now();
        let pdp = Pdp::compile(&bundle(&cedar), &agents(), &upstreams("tools", TOOLS)).unwrap();
        let compiled = started.elapsed();
        let bob = situation("bob", "e3u1", 0, AgentProofKind::Dpop);
        let call = call("tools", "pay", r#"{"amount":5}"#);
        assert_eq!(pdp.judge(&bob, &call).outcome, Outcome::Permit);
        let started = std::time::Instant::now();
        for _ in 0..2_000 {
            assert_eq!(pdp.judge(&bob, &call).outcome, Outcome::Permit);
        }
        println!("{count} policies: compile {compiled:?}, judge {:?}", started.elapsed() / 2_000);
    }
}
