//! Values on the command line that need more than a number.

use std::{net::SocketAddr, time::Duration};

use coracle::level::ReadAt;
#[cfg(feature = "tls")]
use coracle::transport::Address;

/// No timer needs more, and no sum of such times leaves the clock's range.
const LONGEST: Duration = Duration::from_secs(86_400);

/// `100ms`, `1.5s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |reason: &str| format!("{reason}; expected a number and a unit, like 100ms, 1.5s or 2m");
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| wrong("the unit is missing"))?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(wrong(&format!("\"{other}\" is not a unit"))),
    };
    let number: f64 = number.parse().map_err(|_| wrong(&format!("\"{number}\" is not a number")))?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration.is_zero() => Err(wrong(&format!("\"{text}\" is not longer than zero"))),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ if number < 0.0 => Err(wrong(&format!("\"{text}\" is not longer than zero"))),
        _ => Err(wrong(&format!("\"{text}\" is longer than a day"))),
    }
}

/// `linearizable`, `lease`, `bounded:500ms`, `stale`.
pub(crate) fn consistency(text: &str) -> Result<ReadAt, String> {
    match text.split_once(':') {
        None if text == "linearizable" => Ok(ReadAt::Linearizable),
        None if text == "lease" => Ok(ReadAt::Lease),
        None if text == "stale" => Ok(ReadAt::Stale),
        Some(("bounded", max_age)) => duration(max_age).map(ReadAt::Bounded),
        _ => Err("expected linearizable, lease, stale, or bounded:AGE like bounded:500ms".to_owned()),
    }
}

/// A duration, or none at all: `0s`.
pub(crate) fn duration_or_none(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        "0" if text.len() > 1 => Ok(Duration::ZERO),
        _ => duration(text),
    }
}

/// The beginning of a node's id: 1 to 16 hexadecimal digits, in lower case from here on.
pub(crate) fn id_prefix(text: &str) -> Result<String, String> {
    if (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("expected the beginning of a node's id: 1 to 16 digits from 0 to 9 and a to f, as `coracle members` shows them"
        .to_owned())
}

/// A range of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationRange {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// `500ms..1s`.
pub(crate) fn duration_range(text: &str) -> Result<DurationRange, String> {
    let (min, max) = text.split_once("..").ok_or("expected a range like 500ms..1s")?;
    let (min, max) = (duration(min)?, duration(max)?);
    if min < max { Ok(DurationRange { min, max }) } else { Err(format!("{min:?} is not less than {max:?}")) }
}

/// `127.0.0.1:9590`: an IP address to listen at, not a name.
pub(crate) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, like 127.0.0.1:9590 or [::1]:9590; port 0 lets the system choose".to_owned()
    })
}

/// The hosts that a certificate is for, the one that names its files first.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hosts(pub(crate) Vec<String>);

#[cfg(feature = "tls")]
impl Hosts {
    /// What its files are called; not every system takes a colon.
    pub(crate) fn file_name(&self) -> String {
        self.0.first().map(|host| host.replace(':', "-")).unwrap_or_default()
    }

    /// Where a node with this certificate may be reached.
    pub(crate) fn address(&self) -> String {
        let address = self.0.first().and_then(|host| Address::tcp(host, 9490).ok());
        address.map(|address| address.over_tls().to_string()).unwrap_or_default()
    }
}

/// `10.0.0.1`, or `a.example,10.0.0.1` for one certificate for both.
#[cfg(feature = "tls")]
pub(crate) fn hosts(text: &str) -> Result<Hosts, String> {
    let host = |text: &str| {
        let address =
            Address::tcp(text, 0).map_err(|error| format!("{}; expected an IP address or a name", error.reason))?;
        Ok(address.host().unwrap_or(text).to_owned())
    };
    text.split(',').map(host).collect::<Result<_, _>>().map(Hosts)
}

/// `host:port`, as others reach it.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let wrong = |reason: &str| format!("{reason}; expected HOST:PORT, like 127.0.0.1:9590");
    let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(wrong(&format!("\"{port}\" is not a port from 1 to 65535"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for (text, part) in [
            ("10", "unit is missing"),
            ("x1s", "\"x1s\""),
            ("5d", "\"d\""),
            ("0s", "zero"),
            ("-1s", "zero"),
            ("25h", "a day"),
            ("9999999999999999999s", "a day"),
            ("99999999999999999999h", "a day"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn how_fresh_a_read_is_has_a_name() {
        assert_eq!(consistency("linearizable"), Ok(ReadAt::Linearizable));
        assert_eq!(consistency("lease"), Ok(ReadAt::Lease));
        assert_eq!(consistency("stale"), Ok(ReadAt::Stale));
        assert_eq!(consistency("bounded:1.5s"), Ok(ReadAt::Bounded(Duration::from_millis(1500))));
        assert!(consistency("bounded:5").unwrap_err().contains("unit is missing"));
        for text in ["bounded", "strong", "stale:5s"] {
            assert!(consistency(text).unwrap_err().contains("bounded:500ms"));
        }
    }

    #[test]
    fn ranges_rise() {
        let range = duration_range("500ms..1s").unwrap();
        assert_eq!((range.min, range.max), (Duration::from_millis(500), Duration::from_secs(1)));
        assert!(duration_range("1s..1s").is_err() && duration_range("1s").is_err());
    }

    #[test]
    fn the_beginning_of_an_id_is_hexadecimal() {
        assert_eq!(id_prefix("7F3a"), Ok("7f3a".to_owned()));
        for text in ["", "x", "7f-3a", "0x7f", "00000000000000001"] {
            assert!(id_prefix(text).unwrap_err().contains("coracle members"), "{text}");
        }
    }

    #[test]
    fn no_time_at_all_has_a_unit_too() {
        assert_eq!(duration_or_none("0s"), Ok(Duration::ZERO));
        assert_eq!(duration_or_none("5s"), Ok(Duration::from_secs(5)));
        assert!(duration_or_none("0").is_err() && duration_or_none("-1s").is_err());
    }

    #[test]
    fn endpoints_and_sockets_say_what_is_wrong() {
        assert_eq!(endpoint("a.example:9590"), Ok("a.example:9590".to_owned()));
        assert!(endpoint("a.example").unwrap_err().contains("port is missing"));
        assert!(endpoint("a.example:0").unwrap_err().contains("\"0\""));
        assert!(socket("localhost:9590").unwrap_err().contains("IP address"));
    }
}
