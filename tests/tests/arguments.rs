//! What is wrong with the command line or its surroundings ends `serve` with an exit code of its own, and words that name the part.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, net::TcpListener};

use coracle_tests::{
    cli::{Ended, coracle},
    node::Node,
    ports,
};

/// Runs `serve` with loopback addresses and these arguments.
#[track_caller]
fn serve(args: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", folder.path());
    node.extra = args.iter().map(|&arg| arg.to_owned()).collect();
    let ended = coracle(node.arguments());
    // A second attempt tells a port that was taken in between from one that is meant to be.
    if ended.stderr.contains("in use (os error") { coracle(node.arguments()) } else { ended }
}

#[test]
fn an_address_that_does_not_parse_names_the_part() {
    for (address, part) in [
        ("/ip4/127.0.0.1/udp/1", "/udp/1"),
        ("/ip4/300.0.0.1/tcp/1", "300.0.0.1"),
        ("/ip4/127.0.0.1/tcp/70000", "70000"),
        ("localhost:9490", "localhost:9490"),
        ("", "expected"),
    ] {
        coracle(["serve", address]).expect(2).says(&["<ADDRESS>", part, "expected"]);
    }
    serve(&["--peers", "/ip4/127.0.0.1/tcp/1,nonsense"]).expect(2).says(&["--peers", "nonsense"]);
}

#[test]
fn a_flag_that_does_not_parse_is_named_with_what_was_expected() {
    for (flag, value, parts) in [
        ("--heartbeat", "5", ["unit is missing", "100ms"]),
        ("--election-timeout", "2s..1s", ["2s", "not less"]),
        ("--api", "localhost:1", ["expected an IP address", "127.0.0.1:9590"]),
        ("--bind", "127.0.0.1", ["expected an IP address", "and a port"]),
        ("--advertise-api", "host", ["port is missing", "HOST:PORT"]),
        ("--log-level", "loud=nonsense=x", ["is not a filter", "info"]),
        ("--log-entries-max", "0", ["0", "--log-entries-max"]),
        ("--log-bytes-max", "0", ["0", "--log-bytes-max"]),
        ("--log-entries-kept", "100000", ["less than --log-entries-max", "100000"]),
        ("--storage", "rocks:./a", ["\"rocks\" is unknown", "sled:"]),
        ("--storage", "sled:", ["directory after sled: is missing", "memory:"]),
        ("--storage", "redis://127.0.0.1", ["namespace is missing", "redis://"]),
    ] {
        let address = format!("/ip4/127.0.0.1/tcp/{}", ports::free());
        coracle(["serve", &address, flag, value]).expect(2).says(&[flag]).says(&parts);
    }
    coracle(["serve", "--loud"]).expect(2).says(&["--loud"]);
    coracle(["serve"]).expect(2).says(&["<ADDRESS>"]);
}

#[test]
fn times_that_contradict_each_other_are_refused_with_their_values() {
    serve(&["--heartbeat", "400ms"]).expect(2).says(&["cannot be used multiple times"]);
    let address = format!("/ip4/127.0.0.1/tcp/{}", ports::free());
    let (folder, api) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", ports::free()));
    let storage = format!("sled:{}", folder.path().display());
    let ended = coracle(["serve", &address, "--api", &api, "--storage", &storage, "--heartbeat", "1s"]);
    ended.expect(78).says(&["election_timeout_min must be at least twice heartbeat_interval", "1s"]);
}

#[test]
fn plaintext_beyond_loopback_has_to_be_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let storage = format!("sled:{}", folder.path().join("n").display());
    for args in [
        &["/ip4/10.1.2.3/tcp/9490"][..],
        &["/ip4/127.0.0.1/tcp/9490", "--api", "0.0.0.0:9590"],
        &["/ip4/127.0.0.1/tcp/9490", "--bind", "0.0.0.0:9490"],
        &["/ip4/127.0.0.1/tcp/9490", "--peers", "/ip4/127.0.0.1/tcp/9490,/dns4/b.example/tcp/9490"],
    ] {
        let ended = coracle([&["serve", "--storage", &storage], args].concat()).expect(78);
        ended.says(&["in plaintext", "--insecure"]);
    }
    assert!(!folder.path().join("n").exists(), "nothing may begin before");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let storage = format!("sled:{}", folder.path().display());
    let free = ports::free();
    let address = format!("/ip4/127.0.0.1/tcp/{free}");
    let ended = coracle(["serve", &address, "--storage", &storage, "--api", &place.to_string()]).expect(74);
    ended.says(&[&place.to_string(), "in use", "--api"]);
    let address = format!("/ip4/127.0.0.1/tcp/{}", place.port());
    let api = format!("127.0.0.1:{free}");
    let ended = coracle(["serve", &address, "--storage", &storage, "--api", &api]).expect(74);
    ended.says(&[&address, "in use", "choose another port"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let mut node = Node::new("n", folder.path());
    // Even the superuser has no directories below a file.
    node.data = file.join("data");
    let place = node.data.display().to_string();
    coracle(node.arguments()).expect(74).says(&[&place, "Not a directory"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "not a directory");
}
