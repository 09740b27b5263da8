//! What `task` lets through and what it refuses.

use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::json::{Limits, parse, parse_object};
use countersign_proto::token::Constraint::{Eq, Max, OneOf, Prefix};

use super::*;
use crate::fixture::{NOW, tool, world};

fn value(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::DEFAULT).unwrap()
}

fn call(tool: &str, arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse("github").unwrap(),
        tool: ToolName::parse(tool).unwrap(),
        arguments: parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

#[test]
fn a_task_covers_its_tools_with_its_arguments_and_nothing_else() {
    let details = world().task.details();
    let check = |tool: &str, arguments: &str, expected: &str| {
        let outcome = match covers(&details, &call(tool, arguments)) {
            Ok(()) => "covered".to_owned(),
            Err(TaskDenial::Tool) => "tool".to_owned(),
            Err(TaskDenial::Argument { argument }) => argument,
        };
        assert_eq!(outcome, expected, "{tool} {arguments}");
    };
    check("issues.list", "{}", "covered");
    check("issues.list", r#"{"anything":[1,2]}"#, "covered");
    check("issues.delete", "{}", "tool");
    check("Issues.list", "{}", "tool");
    check("issues.create", r#"{"repo":"acme/web","n":5}"#, "covered");
    check("issues.create", r#"{"repo":"acme/web","n":5.0,"title":"x"}"#, "covered");
    check("issues.create", r#"{"repo":"acme/web","n":6}"#, "n");
    check("issues.create", r#"{"repo":"acme/web","n":"5"}"#, "n");
    check("issues.create", r#"{"repo":"acme/web","n":4.5}"#, "n");
    check("issues.create", r#"{"repo":"acme/web"}"#, "n");
    check("issues.create", r#"{"n":1}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":"evil/web"}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":"Acme/web"}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":["acme/web"]}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":null}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":"acme/../evil/web"}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":"acme/..\\evil"}"#, "repo");
    check("issues.create", r#"{"n":1,"repo":"acme/..."}"#, "covered");
}

#[test]
fn one_of_several_grants_must_cover_the_whole_call() {
    let mut details = world().task.details();
    details.tools = vec![
        tool("move", &[("from", Eq(value("\"a\""))), ("to", Eq(value("\"b\"")))]),
        tool("move", &[("from", Eq(value("\"c\""))), ("to", Eq(value("\"d\"")))]),
    ];
    assert_eq!(covers(&details, &call("move", r#"{"from":"a","to":"b"}"#)), Ok(()));
    assert_eq!(covers(&details, &call("move", r#"{"from":"c","to":"d"}"#)), Ok(()));
    assert!(covers(&details, &call("move", r#"{"from":"a","to":"d"}"#)).is_err());
}

#[test]
fn equality_is_of_values_not_of_spelling() {
    let check = |constraint: &Constraint, text: &str, expected: bool| {
        assert_eq!(admits(constraint, &value(text)), expected, "{constraint:?} {text}");
    };
    check(&Eq(value("1000")), "1e3", true);
    check(&Eq(value("1000")), "\"1000\"", false);
    check(&Eq(value(r#"{"a":1,"b":2}"#)), r#"{"b":2,"a":1}"#, true);
    check(&Eq(value(r#"{"a":1}"#)), r#"{"a":1,"b":null}"#, false);
    check(&Eq(value("null")), "false", false);
    check(&OneOf(vec![value("1"), value("\"x\"")]), "\"x\"", true);
    check(&OneOf(vec![value("1"), value("\"x\"")]), "\"y\"", false);
    check(&OneOf(vec![]), "1", false);
    check(&Max(0), "-1", true);
    check(&Max(0), "0.5", false);
    check(&Max(0), "-0.5", false);
    check(&Prefix(String::new()), "\"\"", true);
}

fn constraints() -> Vec<Constraint> {
    vec![
        Eq(value("\"acme/web\"")),
        Eq(value("5")),
        Eq(value("\"acme/../x\"")),
        OneOf(vec![value("\"acme/web\""), value("\"acme/api\"")]),
        OneOf(vec![value("3"), value("5")]),
        OneOf(vec![]),
        Prefix("acme/".into()),
        Prefix("acme/we".into()),
        Prefix(String::new()),
        Prefix("acme/../".into()),
        Max(5),
        Max(4),
    ]
}

#[test]
fn what_is_said_to_be_narrower_never_admits_more() {
    let values = [
        "\"acme/web\"",
        "\"acme/api\"",
        "\"acme/\"",
        "\"acme/../x\"",
        "\"x\"",
        "3",
        "4",
        "5",
        "6",
        "null",
        "[]",
    ];
    let mut implied = 0;
    for inner in constraints() {
        for outer in constraints() {
            if implies(&inner, &outer) {
                implied += 1;
                for text in values {
                    let (inside, outside) = (admits(&inner, &value(text)), admits(&outer, &value(text)));
                    assert!(!inside || outside, "{inner:?} implies {outer:?} but not for {text}");
                }
            }
        }
    }
    assert!(implied > 20, "the relation is not empty: {implied}");
    assert!(implies(&Prefix("acme/we".into()), &Prefix("acme/".into())));
    assert!(!implies(&Prefix("acme/".into()), &Prefix("acme/we".into())));
    assert!(!implies(&Max(6), &Max(5)));
}

#[test]
fn a_grant_has_a_purpose_a_boundary_and_an_end() {
    let check = |change: &dyn Fn(&mut TaskGrant), expected: Result<(), TaskError>| {
        let mut task = world().task;
        change(&mut task);
        assert_eq!(task.check().map(drop), expected);
    };
    check(&|_| {}, Ok(()));
    check(&|task| task.purpose = "  ".into(), Err(TaskError::Purpose));
    check(&|task| task.purpose = "x".repeat(1001), Err(TaskError::Purpose));
    check(&|task| task.locations.clear(), Err(TaskError::Locations));
    check(&|task| task.locations = vec!["x".into(); 17], Err(TaskError::Locations));
    check(&|task| task.tools.clear(), Err(TaskError::Tools));
    check(&|task| task.max_calls = 0, Err(TaskError::Calls));
    check(&|task| task.expires_at = task.granted_at, Err(TaskError::Expiry));
    check(&|task| task.expires_at = task.granted_at.plus_secs(MAX_TASK_SECS + 1), Err(TaskError::Expiry));
    let task = world().task;
    assert!(task.is_active(NOW) && !task.is_active(NOW.plus_secs(3600)));
    assert!(!task.revoke(NOW).is_active(NOW));
}
