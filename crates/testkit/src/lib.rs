//! Simulated machines, clocks, attackers, fakes that behave.

pub mod swtpm;
