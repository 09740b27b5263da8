//! Every target is this file; the name of the program says which function runs.
#![no_main]

use countersign_fuzz::targets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    const NAME: &str = env!("CARGO_BIN_NAME");
    let run = targets::target(NAME).expect("the program is named after a target");
    run(data);
});
