//! What `agent` lets through and what it refuses.

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

fn agent(standing: Standing) -> Agent {
    let (id, sponsor) = (AgentId::parse("bot").unwrap(), PersonId::parse("alice").unwrap());
    Agent { standing, ..Agent::register(id, sponsor, BTreeSet::new(), NOW) }
}

fn bob() -> PersonId {
    PersonId::parse("bob").unwrap()
}

fn standings() -> [Standing; 5] {
    [
        Standing::Discovered,
        Standing::Pending,
        Standing::Active,
        Standing::Suspended { by: bob(), at: NOW },
        Standing::Retired { by: bob(), at: NOW },
    ]
}

#[test]
fn agents_move_only_as_they_may() {
    type Change = fn(Agent) -> Result<Agent, AgentError>;
    let check = |change: Change, may: [bool; 5]| {
        let outcomes = standings().map(|standing| change(agent(standing)).is_ok());
        assert_eq!(outcomes, may);
    };
    check(Agent::activate, [false, true, false, true, false]);
    check(|agent| agent.adopt(bob()), [true, false, false, false, false]);
    check(|agent| agent.kill(bob(), NOW), [true, true, true, true, false]);
    check(|agent| agent.retire(bob(), NOW), [true, true, true, true, false]);
    check(|agent| agent.hand_over(bob()), [false, true, true, true, false]);
}

#[test]
fn whatever_ends_an_agents_rights_starts_a_generation() {
    for change in [
        |agent: Agent| agent.kill(bob(), NOW),
        |agent: Agent| agent.retire(bob(), NOW),
        |agent: Agent| agent.hand_over(bob()),
    ] {
        assert_eq!(change(agent(Standing::Active)).unwrap().generation, 2);
    }
    let last = Agent { generation: u64::MAX, ..agent(Standing::Active) };
    assert_eq!(last.kill(bob(), NOW), Err(AgentError::Generation));
    assert!(!agent(Standing::Active).kill(bob(), NOW).unwrap().is_active());
}

#[test]
fn gateways_hear_of_agents_once_somebody_let_them_act() {
    let states = standings().map(|standing| agent(standing).entry().map(|entry| entry.state));
    assert_eq!(
        states,
        [None, None, Some(AgentState::Active), Some(AgentState::Suspended), Some(AgentState::Retired)]
    );
}

#[test]
fn agents_survive_the_store() {
    for standing in standings() {
        let agent = agent(standing);
        let text = serde_json::to_string(&agent).unwrap();
        assert_eq!(serde_json::from_str::<Agent>(&text).unwrap(), agent);
    }
}
