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
    let peers = args.addresses.iter().chain(&args.peers).chain(&args.join).find(|address| !address.is_loopback());
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

/// How many entries a compaction leaves: fewer than what makes it begin, or it would begin for ever.
pub(crate) fn log_entries_kept(args: &ServeArgs) -> Outcome<u64> {
    let (max, kept) = (args.log_entries_max, args.log_entries_kept.unwrap_or(args.log_entries_max / 10));
    if kept < max {
        return Ok(kept);
    }
    let text = format!("--log-entries-kept is {kept}; expected less than --log-entries-max, which is {max}");
    Err(Failure::new(Code::Usage, text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> ServeArgs {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn check(line: &str) -> Outcome {
        plaintext(&args(line))
    }

    #[test]
    fn a_compaction_leaves_less_than_what_makes_it_begin() {
        let kept = |rest: &str| log_entries_kept(&args(&format!("coracle serve /memory/1 {rest}")));
        assert_eq!(kept(""), Ok(10_000));
        assert_eq!(kept("--log-entries-max 200"), Ok(20));
        assert_eq!(kept("--log-entries-max 200 --log-entries-kept 0"), Ok(0));
        let failure = kept("--log-entries-max 200 --log-entries-kept 200").unwrap_err();
        assert!(failure.code == Code::Usage && failure.to_string().contains("--log-entries-kept is 200"), "{failure}");
    }

    #[test]
    fn plaintext_beyond_this_machine_is_refused_unless_it_is_wanted() {
        check("coracle serve /ip4/127.0.0.1/tcp/9490 --api [::1]:9590").unwrap();
        for rest in [
            "/ip4/10.0.0.1/tcp/9490",
            "/ip4/127.0.0.1/tcp/9490 --api 0.0.0.0:9590",
            "/ip4/127.0.0.1/tcp/9490 --bind 0.0.0.0:9490",
            "/ip4/127.0.0.1/tcp/9490 --join /dns4/b.example/tcp/9490",
            "/ip4/127.0.0.1/tcp/9490 --peers /ip4/127.0.0.1/tcp/9490,/dns4/b.example/tcp/9490",
        ] {
            let failure = check(&format!("coracle serve {rest}")).unwrap_err();
            assert!(failure.code == Code::Configuration && failure.to_string().contains("--insecure"), "{failure}");
            check(&format!("coracle serve {rest} --insecure")).unwrap();
        }
    }
}
