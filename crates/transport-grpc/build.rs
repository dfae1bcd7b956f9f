//! Compiles what nodes say to each other, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/coracle/v1/raft.proto"], ["proto"])?;
    // Connections are made in the crate itself; a constructor of the same name as a call would be in its way.
    let builder = tonic_prost_build::configure().bytes(".").build_transport(false);
    builder.codec_path("crate::codec::Bounded").compile_fds(descriptors)?;
    Ok(())
}
