//! Which protocol is spoken at an address, by its first bytes: whoever meets another one than expected says which.

/// What a connection begins with, in both directions, when MessagePack is spoken.
/// Not text, so that no text protocol is taken for it; the line end shows a stream that was "corrected".
pub const MESSAGEPACK_MAGIC: [u8; 8] = *b"\xC0RACLE\r\n";

/// What a client of HTTP/2 begins with (RFC 9113 §3.4), and so of gRPC.
pub const HTTP2_PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a server of HTTP/2 may begin with (RFC 9113 §6.5): settings that change nothing.
pub const HTTP2_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A protocol that nodes speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// MessagePack: `/tcp/N`.
    MessagePack,
    /// HTTP/2, and so gRPC: `/tcp/N/http`.
    Http2,
    /// TLS, and inside of it either of them: `/tcp/N/tls` or `/tcp/N/tls/http`.
    Tls,
}

impl Spoken {
    /// The protocol of a connection whose other side has begun with `first`; `None` when it is neither, or too short to tell.
    pub fn of(first: &[u8]) -> Option<Spoken> {
        /// Enough to be sure.
        const PREFACE_LEN: usize = 4;
        let is_settings = matches!(first, [0, 0, _, 4, ..]);
        if first.starts_with(&MESSAGEPACK_MAGIC) {
            Some(Spoken::MessagePack)
        } else if is_settings || first.starts_with(&HTTP2_PREFACE[..PREFACE_LEN]) {
            Some(Spoken::Http2)
        } else if matches!(first, [0x15 | 0x16, 3, ..]) {
            // The start of a handshake, or an alert.
            Some(Spoken::Tls)
        } else {
            None
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Spoken::MessagePack => "MessagePack over TCP",
            Spoken::Http2 => "gRPC",
            Spoken::Tls => "TLS",
        }
    }

    /// Says that this is spoken at `address` instead of what was expected, and how the address would have to end.
    pub fn instead_of(self, expected: Spoken, address: &str) -> String {
        let place = address.strip_suffix("/http").unwrap_or(address);
        format!(
            "this address speaks {} ({place}{}), not {} ({place}{})",
            self.name(),
            self.suffix(),
            expected.name(),
            expected.suffix()
        )
    }

    fn suffix(self) -> &'static str {
        match self {
            Spoken::MessagePack => "",
            Spoken::Http2 => "/http",
            Spoken::Tls => "/tls/http",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocols_apart() {
        assert_eq!(Spoken::of(&MESSAGEPACK_MAGIC), Some(Spoken::MessagePack));
        assert_eq!(Spoken::of(&HTTP2_PREFACE), Some(Spoken::Http2));
        assert_eq!(Spoken::of(&HTTP2_SETTINGS), Some(Spoken::Http2));
        assert_eq!(Spoken::of(&[0x16, 3, 1, 0]), Some(Spoken::Tls));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-", b"", b"PR", &[0x16]] {
            assert_eq!(Spoken::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_right_address_is_named() {
        let text = Spoken::MessagePack.instead_of(Spoken::Http2, "/ip4/10.0.0.1/tcp/9490/http");
        assert!(text.contains("MessagePack over TCP (/ip4/10.0.0.1/tcp/9490), not gRPC"), "{text}");
        let text = Spoken::Http2.instead_of(Spoken::MessagePack, "/ip4/10.0.0.1/tcp/9490");
        assert!(text.contains("gRPC (/ip4/10.0.0.1/tcp/9490/http), not MessagePack"), "{text}");
    }
}
