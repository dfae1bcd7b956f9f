//! Addresses and URLs, from options and from peers.

use coracle::StorageUrl;
use coracle_storage_redis::RedisUrl;
use coracle_transport::Address;

/// An address means what its canonical text means.
pub(crate) fn address(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(address) = text.parse::<Address>() else { return };
    assert_eq!(address.to_string().parse().as_ref(), Ok(&address), "the canonical text means something else");
    let over_tls = address.over_tls();
    assert_eq!(over_tls.to_string().parse().as_ref(), Ok(&over_tls), "over TLS it means something else");
    assert_eq!(address.with_port(7).over_tls(), over_tls.with_port(7));
}

pub(crate) fn address_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "/ip4/127.0.0.1/tcp/9490",
        "/ip6/::1/tcp/9490/tls",
        "/dns4/a.example/tcp/1/http",
        "/dns6/b.example/tcp/65535/tls/http",
        "/dns/c/tcp/0/https",
        "/unix/%2Frun%2Fc.sock",
        "/memory/4711",
        "tcp+msgpack://[::1]:9490",
        "tcp+msgpack+tls://a.example:9490",
        "grpc://127.0.0.1:1",
        "grpcs://a.example:443",
        "unix:///run/c.sock",
        "memory://7",
        "127.0.0.1:9490",
    ];
    texts.map(Into::into).into()
}

/// A URL means what it is shown as, but for a password.
pub(crate) fn storage_url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(url) = text.parse::<StorageUrl>().ok().filter(|url| url.engine() != "redis") {
        assert_eq!(url.to_string().parse().as_ref(), Ok(&url), "what is shown means something else");
    }
    if let Ok(url) = text.parse::<RedisUrl>() {
        let shown = url.to_string();
        let Ok(again) = shown.parse::<RedisUrl>() else { panic!("what is shown is no URL: {shown}") };
        assert_eq!(again.to_string(), shown);
        assert_eq!((again.namespace(), again.is_tls()), (url.namespace(), url.is_tls()));
    }
}

pub(crate) fn storage_url_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "memory:",
        "sled:./data/n1",
        "sled:///var/lib/c",
        "file:./data",
        "redis://:secret@localhost/2?namespace=n1",
        "rediss://user:pass%40@[::1]:6380?namespace=n-2&db=3",
        "redis+unix:///run/redis.sock?namespace=n1&db=0&user=u&password=p",
    ];
    texts.map(Into::into).into()
}
