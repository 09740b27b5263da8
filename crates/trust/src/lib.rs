//! Which machine is this? Appraises evidence and makes VerifiedMachine. Knows no agents, tokens or policy.
