//! From text to an address: every part is understood, or the text is refused.

use std::net::{IpAddr, Ipv6Addr};

use multiaddr::Protocol;

use crate::address::{Address, Family};

/// No text longer than this is looked at.
const TEXT_BYTES_MAX: usize = 4096;
/// RFC 1035 §2.3.4, without the root's dot.
const NAME_BYTES_MAX: usize = 253;
const TLS: &str = "TLS is for TCP; what is here does not leave the machine";

/// The address that `text` means, or what is wrong with which part.
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("it has {} bytes, more than {TEXT_BYTES_MAX}", text.len()));
    }
    if text.is_empty() || text == "/" {
        return Err("it is empty".to_owned());
    }
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => parse_url(scheme, rest),
        _ => parse_multiaddr(text),
    }
}

fn parse_url(scheme: &str, rest: &str) -> Result<Address, String> {
    let (grpc, tls) = match scheme {
        "tcp+msgpack" => (false, false),
        "tcp+tls+msgpack" => (false, true),
        "grpc" => (true, false),
        "grpcs" => (true, true),
        _ => return Err(format!("the scheme \"{scheme}\" is unknown")),
    };
    let address = parse_authority(rest, grpc)?;
    Ok(if tls { address.over_tls() } else { address })
}

fn parse_authority(rest: &str, grpc: bool) -> Result<Address, String> {
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, port) = bracketed.split_once("]:").ok_or_else(|| format!("\"{rest}\" is not [host]:port"))?;
        let ip: Ipv6Addr = host.parse().map_err(|_| format!("\"{host}\" is not an IPv6 address"))?;
        return Ok(Address::of_ip(ip.into(), parse_port(port)?, grpc));
    }
    let (host, port) = rest.split_once(':').ok_or_else(|| format!("\"{rest}\" has no port"))?;
    if port.contains(':') {
        return Err(format!("\"{rest}\" is not host:port; an IPv6 address is written in brackets"));
    }
    Address::of_host(host, parse_port(port)?, grpc)
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a port"))
}

/// A multiaddr's protocols, each with the text that it was made of.
struct Parts<'a> {
    rest: Vec<&'a str>,
    at: usize,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Parts<'a>, String> {
        let body = text.strip_prefix('/').ok_or("it does not start with \"/\" or with a scheme")?;
        if body.ends_with('/') {
            return Err("it ends with \"/\"".to_owned());
        }
        let rest: Vec<&str> = body.split('/').collect();
        match rest.iter().position(|part| part.is_empty()) {
            Some(at) => Err(format!("part {} is empty", at + 1)),
            None => Ok(Parts { rest, at: 0 }),
        }
    }

    fn next(&mut self) -> Result<Option<(Protocol<'a>, String)>, String> {
        let remaining = &self.rest[self.at..];
        if remaining.is_empty() {
            return Ok(None);
        }
        let mut words = remaining.iter().copied();
        let parsed = Protocol::from_str_parts(&mut words);
        let taken = remaining.len() - words.len();
        self.at += taken;
        let text = format!("/{}", remaining[..taken].join("/"));
        match parsed {
            Ok(protocol) => Ok(Some((protocol, text))),
            Err(error) => Err(format!("\"{text}\" does not parse: {error}")),
        }
    }

    /// Nothing may follow: a part that is passed over would mean another address than was written.
    fn end(&mut self) -> Result<(), String> {
        match self.next()? {
            None => Ok(()),
            Some((_, text)) => Err(unexpected(&text)),
        }
    }
}

fn unexpected(text: &str) -> String {
    format!("\"{text}\" is not expected there")
}

fn parse_multiaddr(text: &str) -> Result<Address, String> {
    let mut parts = Parts::of(text)?;
    let Some((first, first_text)) = parts.next()? else { return Err("it is empty".to_owned()) };
    let address = match first {
        Protocol::Ip4(ip) => return parse_tcp(ip.to_string(), Family::V4, parts),
        Protocol::Ip6(ip) => return parse_tcp(ip.to_string(), Family::V6, parts),
        Protocol::Dns(name) => return parse_tcp(checked_name(&name)?, Family::Any, parts),
        Protocol::Dns4(name) => return parse_tcp(checked_name(&name)?, Family::V4, parts),
        Protocol::Dns6(name) => return parse_tcp(checked_name(&name)?, Family::V6, parts),
        Protocol::Memory(id) => Address::memory(id),
        Protocol::Unix(path) => Address::unix(&decode_path(&path)?).map_err(|error| error.reason)?,
        _ => return Err(format!("an address does not begin with \"{first_text}\"")),
    };
    match parts.next()? {
        None => Ok(address),
        Some((Protocol::Tls, text)) => Err(format!("\"{text}\": {TLS}")),
        Some((_, text)) => Err(unexpected(&text)),
    }
}

fn parse_tcp(host: String, family: Family, mut parts: Parts<'_>) -> Result<Address, String> {
    let port = match parts.next()? {
        Some((Protocol::Tcp(port), _)) => port,
        Some((_, text)) => return Err(format!("\"{text}\" is there instead of \"/tcp/PORT\"")),
        None => return Err("\"/tcp/PORT\" is missing at its end".to_owned()),
    };
    let (grpc, tls) = match parts.next()? {
        None => (false, false),
        Some((Protocol::Http, _)) => (true, false),
        Some((Protocol::Https, _)) => (true, true),
        Some((Protocol::Tls, _)) => match parts.next()? {
            None => (false, true),
            Some((Protocol::Http, _)) => (true, true),
            Some((_, text)) => return Err(unexpected(&text)),
        },
        Some((_, text)) => return Err(unexpected(&text)),
    };
    parts.end()?;
    let address = Address::of_name(host, port, grpc, family);
    Ok(if tls { address.over_tls() } else { address })
}

/// The name in lower case, when it can be one.
pub(crate) fn checked_name(name: &str) -> Result<String, String> {
    if name.parse::<IpAddr>().is_ok() {
        return Err(format!("\"{name}\" is an IP address: write /ip4 or /ip6"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(format!("\"{name}\" is not the name of a host"));
    }
    Ok(name.to_ascii_lowercase())
}

pub(crate) fn checked_path(path: &str) -> Result<(), String> {
    match path {
        "" => Err("the socket's path is empty".to_owned()),
        _ if path.contains('\0') => Err("the socket's path contains a NUL".to_owned()),
        _ => Ok(()),
    }
}

/// One segment of a multiaddr: everything but RFC 3986's unreserved characters is percent-encoded.
pub(crate) fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode_path(segment: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        // `from_str_radix` takes a sign as well.
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(decoded.ok_or_else(|| format!("\"{segment}\" is not percent-encoded"))?);
        rest = &tail[2..];
    }
    String::from_utf8(out).map_err(|_| format!("\"{segment}\" is not UTF-8 once decoded"))
}
