//! What the tests of this crate share.

use crate::inbox::{Inbox, InboxLimits, Life};

/// An inbox with room for a few things.
pub(crate) fn open_inbox() -> Inbox {
    let limits =
        InboxLimits { messages_max: 100, message_bytes_max: 10_000, requests_max: 100, request_bytes_max: 10_000 };
    let inbox = Inbox::new(limits);
    inbox.advance(Life::Running);
    inbox
}
