//! Histories whose verdicts are known: small ones that stand here, and larger ones of other origin.

use std::{
    fs,
    io::{Write, stderr},
    path::Path,
};

use coracle_sim::linearizability::{
    History, Model, Register, STEPS_MAX, Store, StoreInput, StoreOp, StoreOutput, Strings, Verdict, check,
    parse_register, parse_strings,
};

/// The folder that holds `verdicts.tsv` and the files named there.
const FOLDER: &str = "CORACLE_HISTORIES";

fn verdict<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> String {
    match check(model, history, STEPS_MAX) {
        Verdict::Linearizable => "linearizable".into(),
        Verdict::NotLinearizable(_) => "not linearizable".into(),
        unknown @ Verdict::Unknown { .. } => unknown.to_string(),
    }
}

fn verdict_of_file(folder: &Path, name: &str, model: &str) -> String {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    match model {
        "register" => verdict(&Register, &parse_register(&text).expect(name)),
        "append" => verdict(&Strings, &parse_strings(&text).expect(name)),
        other => panic!("{name}: expected \"register\" or \"append\" as the model, got \"{other}\""),
    }
}

#[test]
fn every_known_verdict_is_given() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        // Not by a macro, whose lines nobody sees of a test that passes.
        writeln!(stderr(), "{FOLDER} is not set: only the small histories in this file are checked").unwrap();
        return;
    };
    let folder = Path::new(&folder);
    let verdicts = fs::read_to_string(folder.join("verdicts.tsv")).unwrap();
    let mut wrong = Vec::new();
    for line in verdicts.lines() {
        let [name, model, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("verdicts.tsv: expected file, model and verdict, got \"{line}\"");
        };
        let found = verdict_of_file(folder, name, model);
        if found != expected {
            wrong.push(format!("{name}: expected {expected}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(verdicts.lines().count() > 0, "verdicts.tsv is empty");
}

/// The verdict on a register's events, each "process kind function value".
fn register(events: &[&str]) -> String {
    let lines: Vec<String> = events.iter().map(|event| format!("INFO jepsen.util - {event}")).collect();
    verdict(&Register, &parse_register(&lines.join("\n")).expect("a history"))
}

#[test]
fn a_read_beside_a_write_may_see_it_or_not() {
    for seen in ["nil", "1"] {
        let read = format!("1 :ok :read {seen}");
        let events = ["0 :invoke :write 1", "1 :invoke :read nil", &read, "0 :ok :write 1"];
        assert_eq!(register(&events), "linearizable", "{seen}");
    }
}

#[test]
fn a_read_after_a_write_has_to_see_it() {
    let before = ["0 :invoke :write 1", "0 :ok :write 1", "1 :invoke :read nil"];
    assert_eq!(register(&[&before[..], &["1 :ok :read 1"]].concat()), "linearizable");
    assert_eq!(register(&[&before[..], &["1 :ok :read nil"]].concat()), "not linearizable");
}

#[test]
fn two_readers_do_not_see_two_orders() {
    let events = [
        "0 :invoke :write 1",
        "1 :invoke :write 2",
        "2 :invoke :read nil",
        "2 :ok :read 1",
        "2 :invoke :read nil",
        "2 :ok :read 2",
        "3 :invoke :read nil",
        "3 :ok :read 1",
        "0 :ok :write 1",
        "1 :ok :write 2",
    ];
    assert_eq!(register(&events), "not linearizable");
    let mut events = events;
    events[7] = "3 :ok :read 2";
    assert_eq!(register(&events), "linearizable");
}

#[test]
fn what_has_no_answer_may_happen_late_or_never_but_only_once() {
    let lost = ["0 :invoke :write 1", "0 :info :write :timed-out", "1 :invoke :write 2", "1 :ok :write 2"];
    let read = |value: &'static str| ["1 :invoke :read nil".to_string(), format!("1 :ok :read {value}")];
    let with_reads = |values: &[&'static str]| {
        let reads: Vec<String> = values.iter().flat_map(|value| read(value)).collect();
        register(&lost.iter().copied().chain(reads.iter().map(String::as_str)).collect::<Vec<_>>())
    };
    assert_eq!(with_reads(&["2", "2"]), "linearizable");
    assert_eq!(with_reads(&["2", "1"]), "linearizable");
    assert_eq!(with_reads(&["1", "2"]), "not linearizable");
    assert_eq!(with_reads(&["2", "1", "2"]), "not linearizable");
    assert_eq!(with_reads(&["nil"]), "not linearizable");
}

#[test]
fn what_is_lost_does_not_happen_before_it_began() {
    let events = ["1 :invoke :read nil", "1 :ok :read 1", "0 :invoke :write 1", "0 :info :write :timed-out"];
    assert_eq!(register(&events), "not linearizable");
}

#[test]
fn a_swap_has_to_find_what_it_expects() {
    let swap = |from: u64| {
        let (begin, end) = (format!("1 :invoke :cas [{from} 2]"), format!("1 :ok :cas [{from} 2]"));
        register(&["0 :invoke :write 1", "0 :ok :write 1", &begin, &end])
    };
    assert_eq!(swap(1), "linearizable");
    assert_eq!(swap(3), "not linearizable");
}

#[test]
fn what_failed_did_not_happen() {
    let swapped = ["0 :invoke :write 1", "0 :ok :write 1", "1 :invoke :cas [1 2]", "1 :fail :cas [1 2]"];
    let read = |end| register(&[&swapped[..], &["0 :invoke :read nil", end]].concat());
    assert_eq!(read("0 :ok :read 1"), "linearizable");
    assert_eq!(read("0 :ok :read 2"), "not linearizable");
}

fn strings(events: &[(u64, &str, &str, &str, &str)]) -> String {
    let line = |(process, kind, function, key, value): &(u64, &str, &str, &str, &str)| {
        format!("{{:process {process}, :type :{kind}, :f :{function}, :key \"{key}\", :value {value}}}\n")
    };
    verdict(&Strings, &parse_strings(&events.iter().map(line).collect::<String>()).expect("a history"))
}

#[test]
fn appends_to_one_key_are_not_lost_and_keys_do_not_mix() {
    let mut events = vec![
        (0, "invoke", "append", "a", "\"x\""),
        (1, "invoke", "append", "a", "\"y\""),
        (2, "invoke", "put", "b", "\"z\""),
        (0, "ok", "append", "a", "\"x\""),
        (1, "ok", "append", "a", "\"y\""),
        (2, "ok", "put", "b", "\"z\""),
        (0, "invoke", "get", "a", "nil"),
        (0, "ok", "get", "a", "\"yx\""),
        (0, "invoke", "get", "b", "nil"),
        (0, "ok", "get", "b", "\"z\""),
    ];
    assert_eq!(strings(&events), "linearizable");
    events[7].4 = "\"y\"";
    assert_eq!(strings(&events), "not linearizable");
}

#[test]
fn an_increment_without_an_answer_counts_once_at_most() {
    let key = || "n".into();
    let mut history = History::new();
    for at in [1, 2, 3] {
        history.invoke(at, StoreInput { key: key(), op: StoreOp::Increment(1) });
    }
    let read = history.invoke(5, StoreInput { key: key(), op: StoreOp::Get });
    for sum in 0..6 {
        let mut history = history.clone();
        let value = (sum > 0).then(|| sum.to_string().into());
        history.answer(read, 6, StoreOutput::Value(value)).unwrap();
        assert_eq!(check(&Store, &history, STEPS_MAX).is_linearizable(), sum <= 3, "{sum}");
    }
}

#[test]
fn an_exhausted_budget_is_no_verdict() {
    let mut history = History::new();
    for at in 0..10 {
        let put = history.invoke(0, StoreInput { key: "a".into(), op: StoreOp::Put(at.to_string().into()) });
        history.answer(put, 100, StoreOutput::Done).unwrap();
    }
    let read = history.invoke(200, StoreInput { key: "a".into(), op: StoreOp::Get });
    history.answer(read, 201, StoreOutput::Value(None)).unwrap();
    assert!(matches!(check(&Store, &history, 1000), Verdict::Unknown { steps: 1000, .. }));
    assert!(check(&Store, &history, STEPS_MAX).is_not_linearizable());
}

#[test]
fn a_thousand_operations_in_a_row_are_soon_checked() {
    let mut history = History::new();
    for at in 0..1000 {
        let put = history.invoke(10 * at, StoreInput { key: "a".into(), op: StoreOp::Increment(1) });
        history.answer(put, 10 * at + 15, StoreOutput::Integer(at as i64 + 1)).unwrap();
    }
    assert!(check(&Store, &history, 10_000).is_linearizable());
}
