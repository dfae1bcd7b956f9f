//! Histories from text, one event a line.

use std::collections::BTreeMap;

use super::{CallId, History, HistoryError, RegisterInput, RegisterOutput, StringsInput, StringsOp, StringsOutput};

/// A line that is not part of a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, got \"{got}\"")]
#[non_exhaustive]
pub struct ParseError {
    /// Which, from 1.
    pub line: usize,
    /// What should be there.
    pub expected: &'static str,
    /// What is there: its beginning.
    pub got: String,
}

/// How much of a line an error shows.
const SHOWN_CHARS: usize = 80;

type Parsed<T> = Result<T, &'static str>;

/// Reads the history of a register as Jepsen logs it.
///
/// A line is `INFO jepsen.util - PROCESS :invoke|:ok|:fail|:info :read|:write|:cas VALUE`, with any white space between; a line's number is its time.
/// After `:fail` an operation did not happen, and nothing is concluded from that; after `:info`, or without an end, it may or may not have happened.
///
/// # Errors
/// When a line is none of these, or an operation ends that has not begun, or a process begins one before its last has ended.
pub fn parse_register(text: &str) -> Result<History<RegisterInput, RegisterOutput>, ParseError> {
    parse(text, register_event)
}

/// Reads the history of strings by key, with lines as `{:process 0, :type :invoke, :f :append, :key "a", :value "b"}`; a line's number is its time.
///
/// The type is `:invoke`, `:ok`, `:fail` (it did not happen) or `:info` (it may have), the function `:get`, `:put` or `:append`.
/// A text has no escapes; the value of a get that begins, and of one that fails, is not looked at.
///
/// # Errors
/// When a line is none of these, or an operation ends that has not begun, or a process begins one before its last has ended.
pub fn parse_strings(text: &str) -> Result<History<StringsInput, StringsOutput>, ParseError> {
    parse(text, strings_event)
}

/// A line's meaning.
struct Line<I, O> {
    process: u64,
    what: What<I, O>,
}

enum What<I, O> {
    Invoked(I),
    Answered(O),
    Rejected,
    /// It is not known what came of it, and never will be.
    Lost,
}

fn parse<I, O>(text: &str, event: impl Fn(&str) -> Parsed<Line<I, O>>) -> Result<History<I, O>, ParseError> {
    let mut history = History::new();
    let mut running = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let add = |event| add(&mut history, &mut running, number as u64, event);
        event(line).and_then(add).map_err(|expected| ParseError {
            line: number + 1,
            expected,
            got: line.chars().take(SHOWN_CHARS).collect(),
        })?;
    }
    Ok(history)
}

fn add<I, O>(
    history: &mut History<I, O>,
    running: &mut BTreeMap<u64, CallId>,
    at: u64,
    Line { process, what }: Line<I, O>,
) -> Parsed<()> {
    let ends = |_: HistoryError| "an end of an operation that has begun";
    if let What::Invoked(input) = what {
        let call = history.invoke(at, input);
        return match running.insert(process, call) {
            None => Ok(()),
            Some(_) => Err("the end of the process's last operation"),
        };
    }
    let call = running.remove(&process).ok_or("the beginning of an operation")?;
    match what {
        What::Answered(output) => history.answer(call, at, output).map_err(ends),
        What::Rejected => history.reject(call).map_err(ends),
        What::Lost | What::Invoked(_) => Ok(()),
    }
}

const REGISTER: &str = "INFO jepsen.util - PROCESS :invoke|:ok|:fail|:info :read|:write|:cas VALUE";
const INTEGER: &str = "a 64-bit integer as the value";

fn register_event(line: &str) -> Parsed<Line<RegisterInput, RegisterOutput>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["INFO", "jepsen.util", "-", process, kind, function, value @ ..] = &words[..] else { return Err(REGISTER) };
    let process = process.parse().map_err(|_| "a number as the process")?;
    let what = match (*kind, *function) {
        (":invoke", ":read") => What::Invoked(RegisterInput::Read),
        (":invoke", ":write") => What::Invoked(RegisterInput::Write(integer(value)?)),
        (":invoke", ":cas") => What::Invoked(swap(value)?),
        (":ok", ":read") if value == ["nil"] => What::Answered(RegisterOutput::Value(None)),
        (":ok", ":read") => What::Answered(RegisterOutput::Value(Some(integer(value)?))),
        (":ok", ":write" | ":cas") => What::Answered(RegisterOutput::Done),
        (":fail", ":read" | ":write" | ":cas") => What::Rejected,
        (":info", ":read" | ":write" | ":cas") => What::Lost,
        _ => return Err(REGISTER),
    };
    Ok(Line { process, what })
}

fn integer(value: &[&str]) -> Parsed<i64> {
    let [value] = value else { return Err(INTEGER) };
    value.parse().map_err(|_| INTEGER)
}

fn swap(value: &[&str]) -> Parsed<RegisterInput> {
    let [from, to] = value else { return Err("[FROM TO] as the value") };
    let (from, to) = from.strip_prefix('[').zip(to.strip_suffix(']')).ok_or("[FROM TO] as the value")?;
    Ok(RegisterInput::Cas { from: integer(&[from])?, to: integer(&[to])? })
}

const STRINGS: &str =
    "{:process NUMBER, :type :invoke|:ok|:fail|:info, :f :get|:put|:append, :key \"...\", :value ...}";

fn strings_event(line: &str) -> Parsed<Line<StringsInput, StringsOutput>> {
    let fields = line.trim().strip_prefix("{:process ").and_then(|rest| rest.strip_suffix('}'));
    let (process, rest) = fields.and_then(|rest| rest.split_once(", :type ")).ok_or(STRINGS)?;
    let (kind, rest) = rest.split_once(", :f ").ok_or(STRINGS)?;
    let (function, rest) = rest.split_once(", :key ").ok_or(STRINGS)?;
    let (key, value) = rest.split_once(", :value ").ok_or(STRINGS)?;
    let process = process.parse().map_err(|_| "a number as the process")?;
    let key = text(key)?;
    let what = match (kind, function) {
        (":invoke", ":get") => What::Invoked(StringsInput { key, op: StringsOp::Get }),
        (":invoke", ":put") => What::Invoked(StringsInput { key, op: StringsOp::Put(text(value)?) }),
        (":invoke", ":append") => What::Invoked(StringsInput { key, op: StringsOp::Append(text(value)?) }),
        (":ok", ":get") => What::Answered(StringsOutput::Value(text(value)?)),
        (":ok", ":put" | ":append") => What::Answered(StringsOutput::Done),
        (":fail", ":get" | ":put" | ":append") => What::Rejected,
        (":info", ":get" | ":put" | ":append") => What::Lost,
        _ => return Err(STRINGS),
    };
    Ok(Line { process, what })
}

fn text(quoted: &str) -> Parsed<String> {
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_plain = |inner: &&str| !inner.contains(['"', '\\']);
    inner.filter(is_plain).map(str::to_owned).ok_or("a text in quotes, without escapes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse_register(text).map_or_else(|error| error.to_string(), |_| "no error".into())
    }

    #[test]
    fn what_is_no_history_says_which_line_and_why() {
        let read = "INFO jepsen.util - 0 :invoke :read nil\n";
        assert!(error("hello").starts_with("line 1: expected INFO jepsen.util"));
        assert!(error(&format!("{read}INFO jepsen.util - 0 :ok :read x")).starts_with("line 2: expected a 64-bit"));
        assert!(error(&format!("{read}{read}")).starts_with("line 2: expected the end of the process's last"));
        assert!(error("INFO jepsen.util - 0 :ok :read 1").starts_with("line 1: expected the beginning"));
        assert!(error("INFO jepsen.util - 0 :invoke :cas 1 2").starts_with("line 1: expected [FROM TO]"));
        assert!(parse_strings("{:process 0, :type :invoke, :f :get, :key 7, :value nil}").is_err());
        assert!(parse_strings("{:process 0, :type :invoke}").is_err());
    }

    #[test]
    fn ends_mean_what_they_say() {
        let text = "INFO jepsen.util - 0 :invoke :read nil\nINFO jepsen.util - 0 :fail :read :timed-out\n\
                    INFO jepsen.util - 1 :invoke :cas [1 2]\nINFO jepsen.util - 1 :info :cas :timed-out\n\
                    INFO jepsen.util - 2 :invoke :cas [3 -4]\nINFO jepsen.util - 2 :ok :cas [3 -4]\n";
        let history = parse_register(text).unwrap();
        let calls: Vec<_> = history.calls().map(|(_, call)| call).collect();
        assert_eq!(calls.len(), 2);
        assert_eq!((&calls[0].input, &calls[0].answer), (&RegisterInput::Cas { from: 1, to: 2 }, &None));
        assert_eq!(calls[1].input, RegisterInput::Cas { from: 3, to: -4 });
        assert_eq!(calls[1].answer, Some((5, RegisterOutput::Done)));
    }
}
