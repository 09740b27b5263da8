//! Simulated machines, clocks, attackers, fakes that behave.
