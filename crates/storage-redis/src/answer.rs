//! What a server answers.

use bytes::Bytes;
use redis::Value;

/// What a script answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its first element.
    pub(crate) status: String,
    /// The others.
    pub(crate) rest: Vec<Value>,
}

/// Reads the answer of a script; `Err` is a text that says what it is instead.
pub(crate) fn parse(value: Value) -> Result<Answer, String> {
    let Value::Array(mut values) = value else { return Err(shown(&value)) };
    if values.is_empty() {
        return Err("an empty list".into());
    }
    let status = shown(&values.remove(0));
    Ok(Answer { status, rest: values })
}

/// A value as text, cut short.
pub(crate) fn shown(value: &Value) -> String {
    const SHOWN_MAX: usize = 200;
    let text = match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".into(),
        Value::Int(number) => number.to_string(),
        Value::Nil => String::new(),
        Value::Array(values) => format!("a list of {}", values.len()),
        _ => "a value of another kind".into(),
    };
    text.chars().take(SHOWN_MAX).collect()
}

/// The bytes of a value; `None` when there is none.
pub(crate) fn bytes(value: Value) -> Result<Option<Bytes>, String> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::Nil => Ok(None),
        other => Err(shown(&other)),
    }
}

/// A number that a value writes in decimal.
pub(crate) fn number(value: &Value) -> Result<u64, String> {
    let text = shown(value);
    text.parse().map_err(|_| format!("\"{text}\", expected a number"))
}

/// Names and values by turns, as `HGETALL` answers them.
pub(crate) fn pairs(values: &[Value]) -> Result<Vec<(String, String)>, String> {
    if !values.len().is_multiple_of(2) {
        return Err(format!("{} names and values", values.len()));
    }
    Ok(values.chunks_exact(2).map(|pair| (shown(&pair[0]), shown(&pair[1]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn an_answer_begins_with_its_status() {
        let answer = parse(Value::Array(vec![text("done"), Value::Nil])).unwrap();
        assert_eq!((answer.status.as_str(), &answer.rest[..]), ("done", &[Value::Nil][..]));
        for other in [Value::Array(vec![]), Value::Nil, Value::Int(1)] {
            assert!(parse(other).is_err());
        }
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        assert_eq!(number(&text("17")), Ok(17));
        assert!(number(&text("x")).unwrap_err().contains("\"x\""));
        assert!(bytes(Value::Int(1)).is_err());
        assert!(pairs(&[text("a")]).is_err());
        assert_eq!(pairs(&[text("a"), text("1")]), Ok(vec![("a".into(), "1".into())]));
        assert_eq!(shown(&text(&"x".repeat(999))).len(), 200);
    }
}
