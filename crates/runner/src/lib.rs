//! On the agent's machine: hardware keys, enrollment, run, the local signing proxy. Nothing server-side.
