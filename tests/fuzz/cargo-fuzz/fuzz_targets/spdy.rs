#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| podbox_fuzz::spdy(bytes));
