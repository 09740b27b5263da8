//! Simulated machines, clocks, attackers, fakes that behave.

pub mod swtpm;
pub mod process;
pub mod world;
