//! Simulated machines, clocks, attackers, fakes that behave; and the demo that plays the story with them.
//!
//! Nothing here is linked into the product.

pub mod ambient;
pub mod browser;
pub mod drill;
pub mod fuzz;
pub mod insider;
pub mod person;
pub mod process;
pub mod story;
pub mod swtpm;
pub mod theft;
pub mod wire;
pub mod world;
