//! Where a node is, and over which transport.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::address_parse::{checked_name, checked_path, encode_path, parse};

/// Where a node is: a multiaddr whose every part is understood, or the equivalent URL.
///
/// The text is canonical: a URL becomes the multiaddr that means the same, so that equal addresses compare equal.
///
/// ```
/// use coracle_transport::Address;
///
/// let address: Address = "tcp+msgpack://[::1]:9490".parse()?;
/// assert_eq!(address.to_string(), "/ip6/::1/tcp/9490");
/// assert!(address.is_loopback());
/// # Ok::<(), coracle_transport::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: String,
    route: Route,
    family: Family,
    tls: bool,
}

/// What an address means; [`Address::is_tls`] says whether over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Route {
    /// MessagePack over TCP.
    Tcp {
        /// An IP address or a name.
        host: String,
        /// The port; 0 lets the system choose when listening.
        port: u16,
    },
    /// MessagePack over a Unix socket.
    Unix {
        /// The socket's path.
        path: String,
    },
    /// The network inside this process.
    Memory {
        /// The address there.
        id: u64,
    },
    /// gRPC over TCP.
    Grpc {
        /// An IP address or a name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Which of a name's IP addresses count; of an IP address, which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

/// Why a text is not an address: names the part that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not an address: {reason}; expected /ip4/1.2.3.4/tcp/9490, /dns4/host/tcp/9490/tls, /unix/%2Frun%2Fc.sock, /memory/7 or tcp+msgpack://host:port"
)]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// What is wrong with which part.
    pub reason: String,
}

impl Address {
    /// MessagePack over TCP at an IP address or a name.
    ///
    /// # Errors
    /// When `host` is neither.
    pub fn tcp(host: &str, port: u16) -> Result<Address, AddressError> {
        Address::of_host(host, port, false).map_err(|reason| AddressError { text: host.to_owned(), reason })
    }

    /// gRPC over TCP at an IP address or a name.
    ///
    /// # Errors
    /// When `host` is neither.
    pub fn grpc(host: &str, port: u16) -> Result<Address, AddressError> {
        Address::of_host(host, port, true).map_err(|reason| AddressError { text: host.to_owned(), reason })
    }

    /// The same over TLS. What stays on this machine, a Unix socket or the network inside this process, has no such form and stays as it is.
    #[must_use]
    pub fn over_tls(&self) -> Address {
        Address { tls: self.host().is_some(), ..self.clone() }.canonical()
    }

    /// The same host and port with gRPC in place of MessagePack; other addresses stay as they are.
    #[must_use]
    pub fn over_grpc(&self) -> Address {
        let route = match &self.route {
            Route::Tcp { host, port } => Route::Grpc { host: host.clone(), port: *port },
            other => other.clone(),
        };
        Address { route, ..self.clone() }.canonical()
    }

    /// Whether it is spoken to over TLS only.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The IP address or the name, if there is one.
    pub fn host(&self) -> Option<&str> {
        match &self.route {
            Route::Tcp { host, .. } | Route::Grpc { host, .. } => Some(host),
            Route::Unix { .. } | Route::Memory { .. } => None,
        }
    }

    /// The address `id` of the network inside this process.
    pub fn memory(id: u64) -> Address {
        Address::of_route(Route::Memory { id }, Family::Any)
    }

    /// MessagePack over the Unix socket at `path`.
    ///
    /// # Errors
    /// When `path` is empty or contains a NUL.
    pub fn unix(path: &str) -> Result<Address, AddressError> {
        checked_path(path).map_err(|reason| AddressError { text: path.to_owned(), reason })?;
        Ok(Address::of_route(Route::Unix { path: path.to_owned() }, Family::Any))
    }

    /// The same with another port; an address without a port stays as it is.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Address {
        let route = match &self.route {
            Route::Tcp { host, .. } => Route::Tcp { host: host.clone(), port },
            Route::Grpc { host, .. } => Route::Grpc { host: host.clone(), port },
            other => other.clone(),
        };
        Address { route, ..self.clone() }.canonical()
    }

    /// What it means.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether nobody outside of this machine can be there: a loopback IP address, the name `localhost`, a Unix socket, or the network inside this process.
    ///
    /// Other names are not taken for loopback, whatever they resolve to.
    pub fn is_loopback(&self) -> bool {
        match &self.route {
            Route::Unix { .. } | Route::Memory { .. } => true,
            Route::Tcp { host, .. } | Route::Grpc { host, .. } => {
                host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.to_canonical().is_loopback())
            }
        }
    }

    /// Whether an IP address that the name resolves to is of the family that the address asks for: `/dns4` takes IPv4 only, `/dns6` IPv6 only.
    pub fn accepts(&self, ip: IpAddr) -> bool {
        match self.family {
            Family::Any => true,
            Family::V4 => ip.is_ipv4(),
            Family::V6 => ip.is_ipv6(),
        }
    }

    pub(crate) fn of_host(host: &str, port: u16, grpc: bool) -> Result<Address, String> {
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Address::of_ip(ip, port, grpc),
            Err(_) => Address::of_name(checked_name(host)?, port, grpc, Family::Any),
        })
    }

    pub(crate) fn of_ip(ip: IpAddr, port: u16, grpc: bool) -> Address {
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        Address::of_name(ip.to_string(), port, grpc, family)
    }

    pub(crate) fn of_name(host: String, port: u16, grpc: bool, family: Family) -> Address {
        let route = if grpc { Route::Grpc { host, port } } else { Route::Tcp { host, port } };
        Address::of_route(route, family)
    }

    fn of_route(route: Route, family: Family) -> Address {
        Address { text: String::new(), route, family, tls: false }.canonical()
    }

    /// Writes the text that means what the other fields say.
    fn canonical(self) -> Address {
        let (family, tls) = (self.family, if self.tls { "/tls" } else { "" });
        let text = match &self.route {
            Route::Memory { id } => format!("/memory/{id}"),
            Route::Unix { path } => format!("/unix/{}", encode_path(path)),
            Route::Tcp { host, port } => format!("/{}/{host}/tcp/{port}{tls}", protocol(host, family)),
            Route::Grpc { host, port } => format!("/{}/{host}/tcp/{port}{tls}/http", protocol(host, family)),
        };
        Address { text, ..self }
    }
}

fn protocol(host: &str, family: Family) -> &'static str {
    match (host.parse::<IpAddr>(), family) {
        (Ok(IpAddr::V4(_)), _) => "ip4",
        (Ok(IpAddr::V6(_)), _) => "ip6",
        (Err(_), Family::Any) => "dns",
        (Err(_), Family::V4) => "dns4",
        (Err(_), Family::V6) => "dns6",
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<SocketAddr> for Address {
    /// MessagePack over TCP there.
    fn from(address: SocketAddr) -> Address {
        Address::of_ip(address.ip(), address.port(), false)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        parse(text).map_err(|reason| AddressError { text: text.to_owned(), reason })
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(text: &str) -> String {
        text.parse::<Address>().expect_err(text).reason
    }

    #[test]
    fn every_form_means_its_route() {
        let tcp = |host: &str| Route::Tcp { host: host.to_owned(), port: 9490 };
        for (text, route) in [
            ("/ip4/10.0.0.1/tcp/9490", tcp("10.0.0.1")),
            ("/ip6/fe80::1/tcp/9490", tcp("fe80::1")),
            ("/dns/a.example/tcp/9490", tcp("a.example")),
            ("/dns4/a.example/tcp/9490", tcp("a.example")),
            ("/dns6/a.example/tcp/9490", tcp("a.example")),
            ("/dns4/a.example/tcp/9490/http", Route::Grpc { host: "a.example".into(), port: 9490 }),
            ("/ip4/10.0.0.1/tcp/9490/tls", tcp("10.0.0.1")),
            ("/dns4/a.example/tcp/9490/tls/http", Route::Grpc { host: "a.example".into(), port: 9490 }),
            ("/unix/%2Frun%2Fc.sock", Route::Unix { path: "/run/c.sock".into() }),
            ("/memory/7", Route::Memory { id: 7 }),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.route(), address.to_string().as_str()), (&route, text));
            assert_eq!(address.is_tls(), text.contains("/tls"));
        }
    }

    #[test]
    fn equal_addresses_compare_equal() {
        for (written, canonical) in [
            ("tcp+msgpack://127.0.0.1:9490", "/ip4/127.0.0.1/tcp/9490"),
            ("tcp+msgpack://[0:0::1]:9490", "/ip6/::1/tcp/9490"),
            ("tcp+msgpack://A.Example:1", "/dns/a.example/tcp/1"),
            ("grpc://a.example:1", "/dns/a.example/tcp/1/http"),
            ("grpc://[::1]:1", "/ip6/::1/tcp/1/http"),
            ("grpcs://[::1]:1", "/ip6/::1/tcp/1/tls/http"),
            ("/ip6/::1/tcp/1/https", "/ip6/::1/tcp/1/tls/http"),
            ("tcp+tls+msgpack://a:1", "/dns/a/tcp/1/tls"),
            ("/dns4/A.example/tcp/1", "/dns4/a.example/tcp/1"),
            ("/ip6/0:0:0:0:0:0:0:1/tcp/1", "/ip6/::1/tcp/1"),
            ("/ip4/1.2.3.4/tcp/09", "/ip4/1.2.3.4/tcp/9"),
            ("/unix/%2frun%2Fc%2esock", "/unix/%2Frun%2Fc.sock"),
        ] {
            let (a, b): (Address, Address) = (written.parse().unwrap(), canonical.parse().unwrap());
            assert_eq!((&a, a.to_string().as_str()), (&b, canonical));
        }
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("", "empty"),
            ("/", "empty"),
            ("nonsense", "start"),
            ("/ip4/1.2.3.4", "\"/tcp/"),
            ("/ip4/1.2.3/tcp/1", "\"/ip4/1.2.3\""),
            ("/ip4/1.2.3.4/tcp/99999", "\"/tcp/99999\""),
            ("/ip4/1.2.3.4/tcp/1/", "ends with \"/\""),
            ("/ip4/1.2.3.4/tcp/1/tls/tls", "\"/tls\""),
            ("/ip4/1.2.3.4/tcp/1/tls/https", "\"/https\""),
            ("/ip4/1.2.3.4/tcp/1/http/tls", "\"/tls\""),
            ("/ip4/1.2.3.4/tls/tcp/1", "\"/tls\""),
            ("/unix/a/tls", "TLS is for TCP"),
            ("/memory/1/tls", "TLS is for TCP"),
            ("/ip4/1.2.3.4/tcp/1/http/ws", "\"/ws\""),
            ("/ip4/1.2.3.4/tcp/1/tcp/2", "\"/tcp/2\""),
            ("/ip4/1.2.3.4/udp/1", "\"/udp/1\""),
            ("/ip4/1.2.3.4/tcp/1/grpc", "\"/grpc\""),
            ("/tcp/1", "\"/tcp/1\""),
            ("/dns4//tcp/1", "empty"),
            ("/dns4/1.2.3.4/tcp/1", "/ip4"),
            ("/dns4/a b/tcp/1", "\"a b\""),
            ("/unix/run/c.sock", "\"/c.sock\""),
            ("/unix/%2", "percent"),
            ("/unix/%00", "NUL"),
            ("/unix/%ff", "UTF-8"),
            ("/memory/x", "\"/memory/x\""),
            ("/memory/7/tcp/1", "\"/tcp/1\""),
            ("tcp+msgpack://host", "port"),
            ("tcp+msgpack://host:70000", "\"70000\""),
            ("tcp+msgpack://:1", "name"),
            ("tcp+msgpack://[::1:1", "\"[::1:1\""),
            ("tcp+msgpack://[1.2.3.4]:1", "IPv6"),
            ("tcp+msgpack://::1:1", "brackets"),
            ("tcp+msgpack://a:1/", "\"1/\""),
            ("http://a:1", "\"http\""),
        ] {
            assert!(reason(text).contains(part), "{text}: {}", reason(text));
        }
        assert!(reason(&"/".repeat(5000)).contains("4096"));
    }

    #[test]
    fn ports_are_replaced_and_families_kept() {
        let address: Address = "/dns6/a/tcp/0".parse().unwrap();
        assert_eq!(address.with_port(5).to_string(), "/dns6/a/tcp/5");
        assert_eq!(address.over_tls().with_port(5).to_string(), "/dns6/a/tcp/5/tls");
        assert_eq!(Address::memory(3).over_tls(), Address::memory(3));
        assert!(address.accepts("::1".parse().unwrap()));
        assert!(!address.accepts("127.0.0.1".parse().unwrap()));
        assert_eq!(Address::memory(3).with_port(5), Address::memory(3));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, loopback) in [
            ("/ip4/127.8.0.1/tcp/1", true),
            ("/ip6/::1/tcp/1/http", true),
            ("/ip6/::ffff:127.0.0.1/tcp/1", true),
            ("/dns/LOCALHOST/tcp/1", true),
            ("/unix/a", true),
            ("/memory/1", true),
            ("/ip4/0.0.0.0/tcp/1", false),
            ("/ip6/::/tcp/1", false),
            ("/dns4/a.localhost.example/tcp/1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_loopback(), loopback, "{text}");
        }
    }

    fn addresses() -> impl Strategy<Value = Address> {
        let host = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
            "[a-z][a-z0-9-]{0,9}(\\.[a-z0-9_]{1,5}){0,3}",
        ];
        prop_oneof![
            (host, any::<u16>(), any::<bool>(), any::<bool>()).prop_map(|(host, port, grpc, tls)| {
                let address = Address::of_host(&host, port, grpc).unwrap();
                if tls { address.over_tls() } else { address }
            }),
            any::<u64>().prop_map(Address::memory),
            "[^\\x00]{1,20}".prop_map(|path| Address::unix(&path).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn text_and_serde_round_trip(address in addresses()) {
            prop_assert_eq!(&address.to_string().parse::<Address>().unwrap(), &address);
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Address>(&json).unwrap(), &address);
        }

        #[test]
        fn any_text_parses_or_is_refused_and_stays_canonical(text in "(/?(ip4|ip6|dns4|tcp|unix|memory|http|tls|[0-9a-f:.%]{0,6})){0,6}|.{0,30}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(&address.to_string().parse::<Address>().unwrap(), &address);
            }
        }
    }
}
