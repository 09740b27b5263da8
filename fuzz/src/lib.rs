//! The targets of `crates/testkit/src/fuzz.rs`, taken in as a file: so that no server, gateway or database is built
//! with the fuzzer's flags.

#[path = "../../crates/testkit/src/fuzz.rs"]
pub mod targets;
