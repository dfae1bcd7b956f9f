//! What is refused before anything starts.

use crate::{
    cli::ServeArgs,
    exit::{Code, Failure, Outcome},
};

/// Nothing is encrypted yet: beyond this machine, that has to be wanted.
pub(crate) fn plaintext(args: &ServeArgs) -> Outcome {
    if args.insecure {
        return Ok(());
    }
    let peers = args.addresses.iter().chain(&args.peers).find(|address| !address.is_loopback());
    let bind = args.bind.iter().find(|bind| !bind.ip().is_loopback());
    let (what, place) = match (peers, bind) {
        (Some(address), _) => ("the peers' address", address.to_string()),
        (None, Some(bind)) => ("--bind", bind.to_string()),
        (None, None) if !args.api.ip().is_loopback() => ("--api", args.api.to_string()),
        (None, None) => return Ok(()),
    };
    let text =
        format!("{what} {place} can be reached from other machines, in plaintext: anybody there could read and write");
    let failure = Failure::new(Code::Configuration, text);
    Err(failure.hint("Use a loopback address, or say --insecure if the network itself is trusted."))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn check(line: &str) -> Outcome {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Serve(args) => plaintext(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plaintext_beyond_this_machine_is_refused_unless_it_is_wanted() {
        check("coracle serve /ip4/127.0.0.1/tcp/9490 --api [::1]:9590").unwrap();
        for rest in [
            "/ip4/10.0.0.1/tcp/9490",
            "/ip4/127.0.0.1/tcp/9490 --api 0.0.0.0:9590",
            "/ip4/127.0.0.1/tcp/9490 --bind 0.0.0.0:9490",
            "/ip4/127.0.0.1/tcp/9490 --peers /ip4/127.0.0.1/tcp/9490,/dns4/b.example/tcp/9490",
        ] {
            let failure = check(&format!("coracle serve {rest}")).unwrap_err();
            assert!(failure.code == Code::Configuration && failure.to_string().contains("--insecure"), "{failure}");
            check(&format!("coracle serve {rest} --insecure")).unwrap();
        }
    }
}
