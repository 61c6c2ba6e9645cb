//! One head, of a request and of a response. What must hold is said in `sidecar/src/http1/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fairlead_proxy::http1::fuzzing::head(input));
