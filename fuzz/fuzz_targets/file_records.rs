#![no_main]

coracle_fuzz_targets::fuzz_target!(|data: &[u8]| coracle_fuzz_targets::run("file_records", data));
