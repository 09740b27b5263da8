//! What `run` lets through and what it refuses.

use countersign_proto::id::MachineId;
use countersign_proto::jose::Thumbprint;

use crate::fixture::{NOW, world};

#[test]
fn a_run_stays_with_its_agent_key_machine_and_generation() {
    let world = world();
    let run = world.run.clone();
    let (agent, jkt, machine) = (&world.agent.id, &world.run.agent_jkt, &world.run.machine);
    assert_eq!(run.admit(agent, 1, jkt, machine), Ok(()));
    let check = |outcome: Result<(), countersign_proto::oauth::OauthError>, description: &str| {
        let error = outcome.unwrap_err();
        assert_eq!((error.error, error.description), ("invalid_grant", description));
    };
    let other = countersign_proto::id::AgentId::parse("other").unwrap();
    check(run.admit(&other, 1, jkt, machine), "the run is another agent's");
    check(run.admit(agent, 1, &Thumbprint::from_bytes([9; 32]), machine), "the run is another agent's");
    check(run.admit(agent, 1, jkt, &MachineId::parse("m-18").unwrap()), "the run started on another machine");
    check(run.admit(agent, 2, jkt, machine), "the run has ended");
    let ended = run.end(NOW);
    check(ended.admit(agent, 1, jkt, machine), "the run has ended");
    assert_eq!(ended.clone().end(NOW.plus_secs(5)), ended);
}
