//! The binary, run as users run it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value as Json;

fn coracle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(args).env_remove("CORACLE_ENDPOINTS").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = coracle(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A node of its own in memory, which leaves when it is dropped.
struct Served {
    child: Child,
    api: String,
    ready: String,
}

impl Served {
    fn start(args: &[&str]) -> Served {
        let base =
            ["serve", "/ip4/127.0.0.1/tcp/0", "--api", "127.0.0.1:0", "--exit-with-stdin", "--log-level", "warn"];
        let mut command = coracle(&[&base[..], args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        let api = ready.split_whitespace().find_map(|part| part.strip_prefix("api=")).expect(&ready).to_owned();
        Served { child, api, ready }
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        run(&[&["--endpoints", &self.api], args].concat())
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    /// Waits for its end, and says with which code.
    fn ended(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "it did not leave");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_put_read_counted_and_removed() {
    let node = Served::start(&["--storage", "memory:"]);
    node.ok(&["put", "boat", "coracle"]);
    assert_eq!(node.ok(&["get", "boat"]), "coracle\n");
    assert_eq!(node.ok(&["get", "boat", "--stale"]), "coracle\n");
    for how in ["linearizable", "lease", "bounded:500ms", "stale"] {
        assert_eq!(node.ok(&["get", "boat", "--consistency", how]), "coracle\n");
        assert_eq!(node.ok(&["scan", "--consistency", how]), "boat\tcoracle\n");
    }
    let (code, _, err) = node.run(&["get", "boat", "--consistency", "bounded"]);
    assert!(code == 2 && err.contains("bounded:500ms"), "{err}");
    let (code, _, err) = node.run(&["get", "boat", "--consistency", "lease", "--stale"]);
    assert!(code == 2 && err.contains("--stale"), "{err}");
    assert_eq!(node.ok(&["incr", "n"]), "1\n");
    assert_eq!(node.ok(&["incr", "n", "-11"]), "-10\n");
    node.ok(&["del", "boat"]);
    let (code, out, err) = node.run(&["get", "boat"]);
    assert!(code == 1 && out.is_empty() && err.contains("no key \"boat\""), "{code} {out}{err}");
    let json: Json = serde_json::from_str(&node.ok(&["get", "n", "--json"])).unwrap();
    assert_eq!((&json["value"], &json["version"]), (&Json::from("-10"), &Json::from(2)));
    node.ok(&["put", "boat", "x"]);
    let (code, _, err) = node.run(&["incr", "boat"]);
    assert!(code == 77 && err.contains("\"boat\""), "{code} {err}");
}

#[test]
fn values_come_from_standard_input_and_odd_bytes_are_escaped() {
    let node = Served::start(&["--storage", "memory:"]);
    let mut put = coracle(&["--endpoints", &node.api, "put", "k", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"a\xffb\n").unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(node.ok(&["get", "k"]), "a\\xffb\\x0a\n");
    assert_eq!(node.ok(&["scan"]), "k\ta\\xffb\\x0a\n");
}

#[test]
fn scans_are_ordered_and_bounded() {
    let node = Served::start(&["--storage", "memory:"]);
    for key in ["a/1", "a/2", "b/1"] {
        node.ok(&["put", key, "v"]);
    }
    assert_eq!(node.ok(&["scan", "--keys"]), "a/1\na/2\nb/1\n");
    assert_eq!(node.ok(&["scan", "--prefix", "a/", "--keys", "--reverse"]), "a/2\na/1\n");
    assert_eq!(node.ok(&["scan", "--from", "a/2", "--to", "b/1"]), "a/2\tv\n");
    assert_eq!(node.ok(&["scan", "--limit", "1", "--json"]), "{\"key\":\"a/1\",\"value\":\"v\"}\n");
}

#[test]
fn the_readiness_line_and_the_status_tell_who_and_where() {
    let node = Served::start(&["--storage", "memory:", "--cluster", "boats"]);
    for part in ["ready node=", "cluster=boats", "peers=/ip4/127.0.0.1/tcp/", "storage=memory", "durability=volatile"] {
        assert!(node.ready.contains(part), "{}", node.ready);
    }
    assert!(!node.ready.contains("tcp/0 ") && !node.ready.contains(":0 "), "{}", node.ready);
    let unreachable = "127.0.0.1:1";
    let both = format!("{},{unreachable}", node.api);
    let (code, out, _) = run(&["--endpoints", &both, "status"]);
    assert!(code == 0 && out.contains(&node.api) && out.contains("unreachable"), "{out}");
    let (_, out, _) = run(&["--endpoints", &both, "status", "--json"]);
    let json: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((&json[0]["up"], &json[1]["up"]), (&Json::from(true), &Json::from(false)));
    assert_eq!(json[0]["cluster_name"], "boats");
    assert_eq!(json[0]["members"][0]["client_address"], node.api.as_str());
}

#[test]
fn the_demo_counts_to_the_last_word() {
    let node = Served::start(&["--storage", "memory:"]);
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "The boat, the river: the boats.\n".repeat(40)).unwrap();
    let out = node.ok(&["demo", "words", "--json", "--clients", "4", "--input", text.to_str().unwrap()]);
    let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (result, progress) = lines.split_last().unwrap();
    assert!(!progress.is_empty() && progress.iter().all(|line| line["event"] == "progress"));
    assert_eq!(progress[0]["nodes"][0]["endpoint"], node.api.as_str());
    assert_eq!((&result["event"], &result["equal"]), (&Json::from("result"), &Json::from(true)));
    assert_eq!((&result["words"], &result["distinct"]), (&Json::from(240), &Json::from(4)));
    assert_eq!(result["top"][0], serde_json::json!(["the", 120]));
    let out = node.ok(&["demo", "words", "--clients", "1", "--input", text.to_str().unwrap()]);
    assert!(out.contains("equal to the last word") && out.contains("the 120"), "{out}");
}

#[test]
fn a_node_leaves_when_standard_input_closes_and_finds_its_data_again() {
    let directory = tempfile::tempdir().unwrap();
    let storage = format!("sled:{}/n1", directory.path().display());
    let mut node = Served::start(&["--storage", &storage]);
    assert!(node.ready.contains("durability=power-loss"), "{}", node.ready);
    node.ok(&["put", "boat", "coracle"]);
    drop(node.child.stdin.take());
    assert_eq!(node.ended(), 0);
    let node = Served::start(&["--storage", &storage]);
    assert_eq!(node.ok(&["get", "boat"]), "coracle\n");
}

#[test]
fn a_node_outlives_whoever_read_its_log() {
    let mut command = coracle(&["serve", "/ip4/127.0.0.1/tcp/0", "--api", "127.0.0.1:0", "--storage", "memory:"]);
    command.args(["--exit-with-stdin", "--log-level", "debug"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    let api = ready.split_whitespace().find_map(|part| part.strip_prefix("api=")).expect(&ready).to_owned();
    let mut node = Served { child, api, ready };
    node.ok(&["put", "boat", "coracle"]);
    drop(node.child.stdin.take());
    assert_eq!(node.ended(), 0);
}

#[test]
fn a_node_leaves_with_success_when_it_is_terminated() {
    let mut node = Served::start(&["--storage", "memory:"]);
    let id = node.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(node.ended(), 0);
}

#[test]
fn a_wrong_command_line_names_the_part_and_ends_with_2() {
    for (args, part) in [
        (&["serve", "/ip4/127.0.0.1/udp/9490"][..], "udp"),
        (&["serve", "/memory/1", "--storage", "rocks:./a"], "rocks"),
        (&["serve", "/memory/1", "--log-level", "a=b=c"], "--log-level"),
        (&["serve"], "<ADDRESS>"),
        (&["get"], "<KEY>"),
        (&["--endpoints", "localhost", "status"], "--endpoints"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let (code, _, err) = run(args);
        assert!(code == 2 && err.contains(part), "{args:?}: {code} {err}");
    }
}

#[test]
fn plaintext_beyond_this_machine_ends_with_78_and_names_the_flag() {
    let (code, _, err) = run(&["serve", "/ip4/10.0.0.1/tcp/9490", "--storage", "memory:"]);
    assert!(code == 78 && err.contains("--insecure") && err.contains("10.0.0.1"), "{code} {err}");
}

#[test]
fn a_directory_of_another_cluster_ends_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let storage = format!("sled:{}/n1", directory.path().display());
    drop(Served::start(&["--storage", &storage]));
    let base = ["serve", "/ip4/127.0.0.1/tcp/0", "--api", "127.0.0.1:0", "--storage", &storage];
    let (code, _, err) = run(&[&base[..], &["--cluster", "other"]].concat());
    assert!(code == 78 && err.contains("other"), "{code} {err}");
}

#[test]
fn a_cluster_that_is_down_ends_with_69() {
    let (code, out, err) = run(&["--endpoints", "127.0.0.1:1", "--timeout", "300ms", "get", "k"]);
    assert!(code == 69 && out.is_empty() && err.contains("127.0.0.1:1"), "{code} {err}");
    let (code, _, err) = run(&["--endpoints", "127.0.0.1:1", "--timeout", "300ms", "put", "k", "v"]);
    assert_eq!(code, 69, "{err}");
    let (code, _, _) = run(&["--endpoints", "127.0.0.1:1", "status"]);
    assert_eq!(code, 69);
}

#[test]
fn an_api_address_in_use_ends_with_74() {
    let node = Served::start(&["--storage", "memory:"]);
    let (code, _, err) = run(&["serve", "/ip4/127.0.0.1/tcp/0", "--storage", "memory:", "--api", &node.api]);
    assert!(code == 74 && err.contains(&node.api) && err.contains("--api"), "{code} {err}");
}

#[test]
fn help_lists_the_exit_codes() {
    let mut help = String::new();
    let mut child = coracle(&["serve", "--help"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_string(&mut help).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        help.contains("75 outcome unknown") && help.contains("127.0.0.1:9590") && help.contains("500ms..1s"),
        "{help}"
    );
}

#[test]
fn a_node_alone_is_asked_for_operations() {
    let node = Served::start(&["--storage", "memory:"]);
    node.ok(&["put", "boat", "coracle"]);
    let members: Json = serde_json::from_str(&node.ok(&["members", "--json"])).unwrap();
    let id = members["members"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((&members["leader"], &members["answered_by"]), (&Json::from(id.clone()), &Json::from(id.clone())));
    assert!(node.ready.contains(&format!("node={id}")), "{}", node.ready);
    let table = node.ok(&["members"]);
    assert!(table.contains(&id) && table.contains("leading"), "{table}");
    assert!(node.ok(&["snapshot"]).contains("up to index"));
    assert!(node.ok(&["snapshot", &id[..6]]).contains("up to index"));
    assert!(node.ok(&["weaken", &id[..6], "--for", "1s"]).contains(&id));
    assert!(node.ok(&["weaken", &id, "--for", "0s"]).contains("like any other"));
    assert!(node.ok(&["transfer", &id]).contains("leads"), "it leads already");
    let fails = |args: &[&str], expected: i32, part: &str| {
        let (code, out, err) = node.run(args);
        assert!(code == expected && err.contains(part), "{args:?}: {code} {out}{err}");
    };
    fails(&["transfer"], 69, "coracle members");
    fails(&["leave", &id], 77, "nobody would vote");
    let stranger = if id.starts_with('0') { "1" } else { "0" };
    fails(&["leave", stranger], 1, "coracle members");
    fails(&["join", "/ip4/127.0.0.1/tcp/1", "--timeout", "1s"], 69, "Start the node there");
    fails(&["weaken", &id, "--for", "5"], 2, "--for");
}
