//! A stream of messages, one after another. What must hold is said in `sidecar/src/http1/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fairlead_proxy::http1::fuzzing::exchange(input));
