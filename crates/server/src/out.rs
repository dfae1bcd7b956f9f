//! Standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::exit::{Code, Failure, Outcome};

/// Prints a line at once.
pub(crate) fn line(text: impl Display) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        // A reader that closed the pipe has seen enough.
        io::ErrorKind::BrokenPipe => Failure::silent(Code::Io),
        _ => Failure::io("could not write to standard output", &error),
    })
}
