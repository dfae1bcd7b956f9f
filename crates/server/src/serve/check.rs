//! What is refused before anything starts.

use std::net::SocketAddr;

use coracle::{
    StorageUrl,
    transport::{Address, Route},
};

use crate::{
    cli::ServeArgs,
    exit::{Code, Failure, Outcome},
};

/// What is neither over TLS nor stays on this machine has to be wanted.
pub(crate) fn plaintext(args: &ServeArgs) -> Outcome {
    if args.insecure { Ok(()) } else { listeners(args).and_then(|()| storage(args)) }
}

fn listeners(args: &ServeArgs) -> Outcome {
    let is_open = |address: &&Address| !address.is_loopback() && !address.is_tls();
    let peers = args.addresses.iter().chain(&args.peers).chain(&args.join).find(is_open);
    let is_secure = args.addresses.iter().all(Address::is_tls);
    let bind = args.bind.iter().find(|bind| !bind.ip().is_loopback() && !is_secure);
    let (what, place) = match (peers, bind) {
        (Some(address), _) => ("the peers' address", address.to_string()),
        (None, Some(bind)) => ("--bind", bind.to_string()),
        (None, None) if !args.api.ip().is_loopback() => ("--api", args.api.to_string()),
        (None, None) => return Ok(()),
    };
    let text =
        format!("{what} {place} can be reached from other machines, in plaintext: anybody there could read and write");
    let failure = Failure::new(Code::Configuration, text);
    Err(failure.hint(
        "Use a loopback address, peers' addresses over TLS (they end with /tls), or say --insecure if the network itself is trusted.",
    ))
}

fn storage(args: &ServeArgs) -> Outcome {
    if !args.storage.as_ref().is_some_and(StorageUrl::is_plaintext_beyond_this_machine) {
        return Ok(());
    }
    let text = "the Redis server of --storage is on another machine, and is talked to in plaintext: anybody between could read and write";
    let failure = Failure::new(Code::Configuration, text);
    Err(failure.hint("Use rediss://, or say --insecure if the network itself is trusted."))
}

/// Where to listen for peers, who come there as the addresses say: over TLS, by gRPC, or plainly.
pub(crate) fn binds(args: &ServeArgs) -> Outcome<Vec<Address>> {
    let kind = |address: &Address| (address.is_tls(), matches!(address.route(), Route::Grpc { .. }));
    let Some((first, others)) = args.addresses.split_first() else { return Ok(Vec::new()) };
    let (is_tls, is_grpc) = kind(first);
    let other = others.iter().find(|other| kind(other) != (is_tls, is_grpc));
    if let (Some(_), Some(other)) = (args.bind.first(), other) {
        let text =
            format!("{first} and {other} are spoken to in different ways: it is not clear which of them --bind is");
        return Err(Failure::new(Code::Usage, text).hint("Leave --bind out, or give addresses of one kind."));
    }
    let bind = |bind: &SocketAddr| {
        let address = Address::from(*bind);
        let address = if is_grpc { address.over_grpc() } else { address };
        if is_tls { address.over_tls() } else { address }
    };
    Ok(args.bind.iter().map(bind).collect())
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
        for local in ["redis://localhost", "redis://[::1]:7", "rediss://a.example", "redis+unix:///run/r.sock"] {
            check(&format!("coracle serve /memory/1 --storage {local}?namespace=n1")).unwrap();
        }
        for rest in [
            "/ip4/10.0.0.1/tcp/9490",
            "/ip4/127.0.0.1/tcp/9490 --api 0.0.0.0:9590",
            "/ip4/127.0.0.1/tcp/9490 --bind 0.0.0.0:9490",
            "/ip4/127.0.0.1/tcp/9490 --join /dns4/b.example/tcp/9490",
            "/ip4/127.0.0.1/tcp/9490 --storage redis://10.0.0.1/0?namespace=n1",
            "/ip4/127.0.0.1/tcp/9490 --peers /ip4/127.0.0.1/tcp/9490,/dns4/b.example/tcp/9490",
        ] {
            let failure = check(&format!("coracle serve {rest}")).unwrap_err();
            assert!(failure.code == Code::Configuration && failure.to_string().contains("--insecure"), "{failure}");
            check(&format!("coracle serve {rest} --insecure")).unwrap();
        }
    }

    #[test]
    fn peers_over_tls_need_no_permission_and_clients_do() {
        check("coracle serve /ip4/10.0.0.1/tcp/9490/tls --bind 0.0.0.0:9490 --join /dns4/b.example/tcp/1/tls").unwrap();
        for rest in [
            "/ip4/10.0.0.1/tcp/9490/tls --api 0.0.0.0:9590",
            "/ip4/10.0.0.1/tcp/9490/tls --join /dns4/b.example/tcp/1",
            "/ip4/10.0.0.1/tcp/9490/tls /ip4/10.0.0.1/tcp/9491",
        ] {
            let failure = check(&format!("coracle serve {rest}")).unwrap_err();
            assert!(failure.to_string().contains("--insecure"), "{failure}");
        }
    }

    #[test]
    fn what_is_bound_is_spoken_to_as_the_addresses_are() {
        let bound =
            |line: &str| binds(&args(line)).map(|binds| binds.iter().map(ToString::to_string).collect::<Vec<_>>());
        let bind = "--bind 0.0.0.0:1";
        assert_eq!(bound(&format!("coracle serve /dns4/a/tcp/1 {bind}")).unwrap(), ["/ip4/0.0.0.0/tcp/1"]);
        assert_eq!(bound(&format!("coracle serve /dns4/a/tcp/1/tls {bind}")).unwrap(), ["/ip4/0.0.0.0/tcp/1/tls"]);
        assert_eq!(bound(&format!("coracle serve /dns4/a/tcp/1/http {bind}")).unwrap(), ["/ip4/0.0.0.0/tcp/1/http"]);
        let secure = format!("coracle serve /dns4/a/tcp/1/tls/http {bind}");
        assert_eq!(bound(&secure).unwrap(), ["/ip4/0.0.0.0/tcp/1/tls/http"]);
        for other in ["/dns4/a/tcp/2/tls", "/dns4/a/tcp/2/http"] {
            let failure = bound(&format!("coracle serve /dns4/a/tcp/1 {other} {bind}")).unwrap_err();
            assert!(failure.code == Code::Usage && failure.to_string().contains("--bind"), "{failure}");
        }
        assert_eq!(bound("coracle serve /dns4/a/tcp/1 /dns4/a/tcp/2/tls").unwrap(), [""; 0]);
    }
}
