#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    _ = ovl::fuzzing::hosts_toml(data);
});
