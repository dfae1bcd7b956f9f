//! Which server, and which part of it, as text.

use std::{
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use coracle_storage::{Result as StorageResult, StorageError};

use crate::RedisTls;

/// The port of a Redis server when the URL names none.
const PORT: u16 = 6379;
/// A namespace is part of every key: it is kept short.
const NAMESPACE_BYTES_MAX: usize = 64;

/// A Redis server, and the namespace on it that is this node's.
///
/// - `redis://[user[:password]@]host[:port][/db]?namespace=n1`
/// - `rediss://…`, the same over TLS: `&ca=FILE` names the authority that signed the server's certificate, for one that the system does not trust, and `&cert=FILE&key=FILE` what this node shows; all in PEM
/// - `redis+unix:///path/to/socket?namespace=n1[&db=0][&user=…][&password=…]`
///
/// Bytes that mean something else there are written as `%40`.
/// Shown, it has no password.
///
/// ```
/// use coracle_storage_redis::RedisUrl;
///
/// let url: RedisUrl = "redis://:secret@localhost/2?namespace=n1".parse()?;
/// assert_eq!(url.to_string(), "redis://localhost:6379/2?namespace=n1");
/// assert!("redis://localhost".parse::<RedisUrl>().is_err(), "a node has a namespace of its own");
/// # Ok::<(), coracle_storage_redis::RedisUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(crate) address: Address,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) db: u32,
    pub(crate) namespace: String,
    pub(crate) certificates: Certificates,
}

/// The files that a URL names.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Certificates {
    authority: Option<PathBuf>,
    /// A certificate, and its key.
    identity: Option<(PathBuf, PathBuf)>,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16, is_tls: bool },
    Unix(PathBuf),
}

/// Why a text is not the URL of a Redis store; the text itself may hold a password and is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the URL of a Redis store: {reason}; expected redis://host[:port][/db]?namespace=NAME, rediss://… or redis+unix:///path?namespace=NAME"
)]
pub struct RedisUrlError {
    /// What is wrong with which part.
    pub reason: String,
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, RedisUrlError> {
    Err(RedisUrlError { reason: reason.into() })
}

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When a part of it is missing, unknown or out of range.
    pub fn parse(text: &str) -> Result<RedisUrl, RedisUrlError> {
        text.parse()
    }

    /// The namespace: what begins the name of every key of this store.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the server is on this machine, as far as the URL tells: a socket, a loopback address, or `localhost`.
    pub fn is_local(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.address, Address::Tcp { is_tls: true, .. })
    }

    /// The certificates that it names, and for the rest those that are given.
    pub(crate) fn tls(&self, given: &RedisTls) -> StorageResult<RedisTls> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| StorageError::io(format!("read {}", path.display()), error))
        };
        let Certificates { authority, identity } = &self.certificates;
        let authority = authority.as_ref().map(read).transpose()?;
        let identity =
            identity.as_ref().map(|(cert, key)| Ok::<_, StorageError>((read(cert)?, read(key)?))).transpose()?;
        let RedisTls { authority: other_authority, identity: other_identity } = given.clone();
        Ok(RedisTls { authority: authority.or(other_authority), identity: identity.or(other_identity) })
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<RedisUrl, RedisUrlError> {
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("there is no \"://\" after a scheme") };
        if rest.contains('#') {
            return wrong("a \"#\" has no meaning here; write %23");
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Options::parse(query)?;
        let mut url = match scheme {
            "redis" | "rediss" => server(place, scheme == "rediss", &mut options)?,
            "redis+unix" => socket(place, &mut options)?,
            scheme => return wrong(format!("the scheme \"{scheme}\" is unknown")),
        };
        let Some(namespace) = options.take("namespace")? else {
            return wrong("the option namespace is missing: each node has its own");
        };
        check_namespace(&namespace)?;
        url.namespace = namespace;
        if url.is_tls() {
            url.certificates = certificates(&mut options)?;
        }
        options.expect_empty()?;
        Ok(url)
    }
}

/// The files that `ca`, `cert` and `key` name.
fn certificates(options: &mut Options) -> Result<Certificates, RedisUrlError> {
    let mut path = |name: &str| match options.take(name)? {
        Some(path) if path.is_empty() => wrong(format!("the option {name} names no file")),
        path => Ok(path.map(PathBuf::from)),
    };
    let (authority, cert, key) = (path("ca")?, path("cert")?, path("key")?);
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return wrong("cert and key belong together"),
    };
    Ok(Certificates { authority, identity })
}

/// `[user[:password]@]host[:port][/db]`
fn server(place: &str, is_tls: bool, options: &mut Options) -> Result<RedisUrl, RedisUrlError> {
    let (authority, db) = place.split_once('/').unwrap_or((place, ""));
    let (credentials, address) =
        authority.rsplit_once('@').map_or((None, authority), |(who, address)| (Some(who), address));
    let (user, password) = match credentials.map(|who| who.split_once(':').unwrap_or((who, ""))) {
        Some((user, password)) => (non_empty(decoded(user)?), non_empty(decoded(password)?)),
        None => (None, None),
    };
    let (host, port) = host_and_port(address)?;
    let db = match (db, options.take("db")?) {
        ("", None) => 0,
        ("", Some(db)) => number("db", &db)?,
        (db, None) => number("db", db)?,
        (_, Some(_)) => return wrong("the db is given twice"),
    };
    let address = Address::Tcp { host, port, is_tls };
    Ok(RedisUrl { address, user, password, db, namespace: String::new(), certificates: Certificates::default() })
}

/// `/path/to/socket`; the rest is in the options.
fn socket(place: &str, options: &mut Options) -> Result<RedisUrl, RedisUrlError> {
    let path = decoded(place)?;
    if !path.starts_with('/') || path.ends_with('/') {
        return wrong(format!("\"{path}\" is not the absolute path of a socket: it is redis+unix:///path"));
    }
    let db = options.take("db")?.map_or(Ok(0), |db| number("db", &db))?;
    let (user, password) = (options.take("user")?, options.take("password")?);
    let address = Address::Unix(path.into());
    Ok(RedisUrl { address, user, password, db, namespace: String::new(), certificates: Certificates::default() })
}

fn host_and_port(address: &str) -> Result<(String, u16), RedisUrlError> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else { return wrong("the ] of an IPv6 address is missing") };
        match port.strip_prefix(':') {
            None if port.is_empty() => (host, None),
            Some(port) => (host, Some(port)),
            None => return wrong(format!("\"{port}\" after an IPv6 address is not a port")),
        }
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    if host.is_empty() {
        return wrong("the host is missing");
    }
    let port = port.map_or(Ok(PORT), |port| number("port", port))?;
    let host = decoded(host)?;
    // One with an @ would be taken for a password and a host when it is shown and read again.
    let is_foreign = |char: char| char.is_control() || char.is_whitespace() || "@/?#&[]%\\".contains(char);
    if host.contains(is_foreign) {
        return wrong("the host has a character that no host has: @ and : in a password are written %40 and %3A");
    }
    Ok((host, port))
}

fn number<T: FromStr>(what: &str, text: &str) -> Result<T, RedisUrlError> {
    text.parse().or_else(|_| wrong(format!("the {what} \"{text}\" is not a number in range")))
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn check_namespace(namespace: &str) -> Result<(), RedisUrlError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if namespace.is_empty() || namespace.len() > NAMESPACE_BYTES_MAX || !namespace.bytes().all(is_plain) {
        return wrong(format!(
            "the namespace \"{namespace}\" is not 1 to {NAMESPACE_BYTES_MAX} letters, digits, dots, hyphens and underscores"
        ));
    }
    Ok(())
}

/// Puts the bytes in the place of their %XX.
fn decoded(text: &str) -> Result<String, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).map(|digit| digit as u8);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return wrong("a % is not followed by two hexadecimal digits");
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).or_else(|_| wrong("it is not UTF-8"))
}

/// What follows the `?`.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(query: &str) -> Result<Options, RedisUrlError> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, value)) => Ok((decoded(name)?, decoded(value)?)),
            None => wrong(format!("the option \"{pair}\" has no value")),
        };
        pairs.map(pair).collect::<Result<_, _>>().map(Options)
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, RedisUrlError> {
        let Some(at) = self.0.iter().position(|(other, _)| other == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        if self.0.iter().any(|(other, _)| other == name) {
            return wrong(format!("the option {name} is given twice"));
        }
        Ok(Some(value))
    }

    fn expect_empty(&self) -> Result<(), RedisUrlError> {
        match self.0.first() {
            Some((name, _)) => wrong(format!("the option \"{name}\" is unknown")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RedisUrl { address, db, namespace, certificates, user: _, password: _ } = self;
        match address {
            Address::Tcp { host, port, is_tls } => {
                let scheme = if *is_tls { "rediss" } else { "redis" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}/{db}?namespace={namespace}")?;
            }
            Address::Unix(path) => {
                write!(f, "redis+unix://{}?namespace={namespace}", escaped(path))?;
                if *db != 0 {
                    write!(f, "&db={db}")?;
                }
            }
        }
        let Certificates { authority, identity } = certificates;
        if let Some(authority) = authority {
            write!(f, "&ca={}", escaped(authority))?;
        }
        match identity {
            Some((cert, key)) => write!(f, "&cert={}&key={}", escaped(cert), escaped(key)),
            None => Ok(()),
        }
    }
}

/// A path, without what has a meaning in a URL.
fn escaped(path: &Path) -> String {
    let mut text = path.display().to_string().replace('%', "%25");
    for (meaningful, escape) in [("?", "%3F"), ("#", "%23"), ("&", "%26")] {
        text = text.replace(meaningful, escape);
    }
    text
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, is_tls: bool) -> Address {
        Address::Tcp { host: host.into(), port, is_tls }
    }

    fn url(address: Address, user: Option<&str>, password: Option<&str>, db: u32) -> RedisUrl {
        let (user, password) = (user.map(str::to_owned), password.map(str::to_owned));
        RedisUrl { address, user, password, db, namespace: "n1".into(), certificates: Certificates::default() }
    }

    #[test]
    fn urls_of_every_kind_are_read() {
        let socket = || Address::Unix("/run/a b.sock".into());
        for (text, expected) in [
            ("redis://h?namespace=n1", url(tcp("h", 6379, false), None, None, 0)),
            ("redis://h/?namespace=n1", url(tcp("h", 6379, false), None, None, 0)),
            ("redis://h:1/3?namespace=n1", url(tcp("h", 1, false), None, None, 3)),
            ("redis://h?db=3&namespace=n1", url(tcp("h", 6379, false), None, None, 3)),
            ("rediss://u:p%40%3a@[::1]:7?namespace=n1", url(tcp("::1", 7, true), Some("u"), Some("p@:"), 0)),
            ("redis://:p@[::1]?namespace=n1", url(tcp("::1", 6379, false), None, Some("p"), 0)),
            ("redis+unix:///run/a%20b.sock?namespace=n1", url(socket(), None, None, 0)),
            (
                "redis+unix:///run/a b.sock?db=2&password=p%26&user=u&namespace=n1",
                url(socket(), Some("u"), Some("p&"), 2),
            ),
        ] {
            assert_eq!(RedisUrl::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn certificates_are_named_for_tls() {
        let parsed = RedisUrl::parse("rediss://h?namespace=n1&key=k.pem&ca=/etc/a%26b.pem&cert=c.pem").unwrap();
        let identity = Some(("c.pem".into(), "k.pem".into()));
        assert_eq!(parsed.certificates, Certificates { authority: Some("/etc/a&b.pem".into()), identity });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "no \"://\""),
            ("http://h?namespace=n1", "scheme \"http\" is unknown"),
            ("redis://h", "namespace is missing"),
            ("redis://h?namespace=", "is not 1 to 64"),
            ("redis://h?namespace=a{b}", "is not 1 to 64"),
            ("redis://?namespace=n1", "host is missing"),
            ("redis://h:x?namespace=n1", "port \"x\" is not a number"),
            ("redis://h:65536?namespace=n1", "port \"65536\""),
            ("redis://[::1?namespace=n1", "]"),
            ("redis://h/x?namespace=n1", "db \"x\""),
            ("redis://h/1?namespace=n1&db=2", "db is given twice"),
            ("redis://h?namespace=n1&namespace=n2", "given twice"),
            ("redis://h?namespace=n1&timeout=5", "option \"timeout\" is unknown"),
            ("redis://epass%40h:1?namespace=n1", "no host has"),
            ("redis://h?namespace", "has no value"),
            ("redis://h?namespace=n1&ca=a.pem", "option \"ca\" is unknown"),
            ("rediss://h?namespace=n1&ca=", "ca names no file"),
            ("rediss://h?namespace=n1&cert=c.pem", "belong together"),
            ("redis://h?namespace=%4", "hexadecimal"),
            ("redis://h?namespace=%ff", "UTF-8"),
            ("redis://h?namespace=n#1", "%23"),
            ("redis+unix://run/socket?namespace=n1", "absolute path"),
            ("redis+unix:///run/?namespace=n1", "absolute path"),
        ] {
            let error = RedisUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_is_the_same_url_without_its_password() {
        for text in [
            "redis://h:6379/0?namespace=n1",
            "rediss://[::1]:7/2?namespace=n1",
            "rediss://h:7/2?namespace=n1&ca=/etc/a%26b.pem&cert=c.pem&key=k.pem",
            "redis+unix:///run/socket?namespace=n1",
            "redis+unix:///run/socket?namespace=n1&db=2",
            "redis+unix:///run/a%3Fb%25%23?namespace=n1",
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), text);
        }
        let secret = RedisUrl::parse("redis://u:secret@h?namespace=n1").unwrap();
        assert!(!format!("{secret} {secret:?}").contains("secret"));
    }
}
