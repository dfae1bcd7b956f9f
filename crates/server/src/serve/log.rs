//! The log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::{
    cli::{LogFormat, ServeArgs},
    exit::{Code, Failure, Outcome},
};

pub(crate) fn start(args: &ServeArgs) -> Outcome {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        let text = format!("--log-level \"{}\" is not a filter: {error}", args.log_level);
        Failure::new(Code::Usage, text).hint("Expected a level like info, or a filter like info,coracle_node=debug.")
    })?;
    // A log that nobody reads any more is no reason to end: complaining about it on standard error would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match args.log_format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
