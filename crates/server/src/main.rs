//! The `coracle` binary: serves a node of a cluster, and talks to one.

mod api;
#[cfg(feature = "tls")]
mod certs;
mod cli;
mod connect;
mod del;
mod demo;
mod exit;
mod get;
mod incr;
mod operate;
mod out;
mod parse;
mod put;
mod scan;
mod serve;
mod status;
mod text;

use std::process::ExitCode;

use crate::{
    cli::{Cli, Command, Demo},
    exit::{Failure, Outcome},
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::of_process();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::io("could not start the runtime", &error).report(),
    };
    let outcome = runtime.block_on(run(cli));
    // What still runs, such as a reader of standard input, must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Outcome {
    let cluster = cli.cluster;
    match cli.command {
        Command::Serve(args) => serve::run(*args).await,
        Command::Put(args) => put::run(&cluster, args).await,
        Command::Get(args) => get::run(&cluster, args).await,
        Command::Del(args) => del::run(&cluster, args).await,
        Command::Incr(args) => incr::run(&cluster, args).await,
        Command::Scan(args) => scan::run(&cluster, args).await,
        Command::Status(args) => status::run(&cluster, args).await,
        Command::Members(args) => operate::members(&cluster, args).await,
        Command::Join(args) => operate::join(&cluster, args).await,
        Command::Leave(args) => operate::leave(&cluster, args).await,
        Command::Transfer(args) => operate::transfer(&cluster, args).await,
        Command::Weaken(args) => operate::weaken(&cluster, args).await,
        Command::Snapshot(args) => operate::snapshot(&cluster, args).await,
        #[cfg(feature = "tls")]
        Command::Certs(args) => certs::run(&args),
        Command::Demo(Demo::Words(args)) => demo::words(&cluster, args).await,
    }
}
