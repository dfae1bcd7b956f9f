//! Compiles the interface for clients, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["proto/coracle/v1/kv.proto", "proto/coracle/v1/cluster.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let builder = tonic_prost_build::configure().bytes(".").codec_path("crate::codec::Bounded");
    builder.compile_fds(descriptors)?;
    Ok(())
}
