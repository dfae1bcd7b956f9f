#![no_main]

coracle_fuzz_targets::fuzz_target!(|data: &[u8]| coracle_fuzz_targets::run("redis_records", data));
