#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    _ = ovl::fuzzing::users(data);
});
