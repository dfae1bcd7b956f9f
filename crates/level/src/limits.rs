//! How large keys, values, transactions, pages and the session table may be.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Op, Result, Txn};

/// What whoever proposes or answers allows; each is named by the error that enforces it.
///
/// These are checked before a transaction is replicated, so nodes may differ in them.
/// What a replica checks when it applies is [`Limits::CEILING`], the same for all: a node's configuration must not change what the log means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key. Default 4 KiB.
    pub key_bytes_max: usize,
    /// The longest value. Default 1 MiB.
    pub value_bytes_max: usize,
    /// The most bytes of keys and values in a transaction. Default 4 MiB.
    pub batch_bytes_max: usize,
    /// The most changes in a transaction, and the most keys in one read. Default 10,000.
    pub batch_ops_max: usize,
    /// The most bytes of keys and values in a page of a scan; a single larger entry comes alone. Default 1 MiB.
    pub page_bytes_max: usize,
    /// The most entries in a page of a scan. Default 10,000.
    pub page_entries_max: usize,
    /// The most bytes of values in the answer to one read of many keys. Default 4 MiB.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            batch_bytes_max: 4 << 20,
            batch_ops_max: 10_000,
            page_bytes_max: 1 << 20,
            page_entries_max: 10_000,
            answer_bytes_max: 4 << 20,
        }
    }
}

impl Limits {
    /// The most that can be configured: every replica enforces it when it applies, whatever its configuration.
    pub const CEILING: Limits = Limits {
        key_bytes_max: 64 << 10,
        value_bytes_max: 8 << 20,
        batch_bytes_max: 8 << 20,
        batch_ops_max: 100_000,
        page_bytes_max: 8 << 20,
        page_entries_max: 100_000,
        answer_bytes_max: 8 << 20,
    };

    /// These limits, none above [`Limits::CEILING`].
    pub fn clamped(&self) -> Limits {
        let ceiling = Limits::CEILING;
        Limits {
            key_bytes_max: self.key_bytes_max.min(ceiling.key_bytes_max),
            value_bytes_max: self.value_bytes_max.min(ceiling.value_bytes_max),
            batch_bytes_max: self.batch_bytes_max.min(ceiling.batch_bytes_max),
            batch_ops_max: self.batch_ops_max.min(ceiling.batch_ops_max),
            page_bytes_max: self.page_bytes_max.min(ceiling.page_bytes_max),
            page_entries_max: self.page_entries_max.min(ceiling.page_entries_max),
            answer_bytes_max: self.answer_bytes_max.min(ceiling.answer_bytes_max),
        }
    }

    /// Whether a transaction is within the limits; ask before it is replicated.
    ///
    /// # Errors
    /// `LimitExceeded`, naming the limit.
    pub fn check(&self, txn: &Txn) -> Result<()> {
        self.check_lengths(txn.ops.iter().map(|op| match op {
            Op::Put { key, value } => (key.len(), value.len()),
            Op::Delete { key } | Op::Increment { key, .. } => (key.len(), 0),
        }))
    }

    /// The same, by the bytes of each change's key and value.
    pub(crate) fn check_lengths(&self, ops: impl ExactSizeIterator<Item = (usize, usize)>) -> Result<()> {
        within("batch_ops_max", self.batch_ops_max, ops.len())?;
        let mut bytes = 0;
        for (key, value) in ops {
            within("key_bytes_max", self.key_bytes_max, key)?;
            within("value_bytes_max", self.value_bytes_max, value)?;
            bytes += key + value;
        }
        within("batch_bytes_max", self.batch_bytes_max, bytes)
    }

    /// Whether the keys of a read are within the limits.
    ///
    /// # Errors
    /// `LimitExceeded`, naming the limit.
    pub fn check_keys(&self, keys: &[Bytes]) -> Result<()> {
        within("batch_ops_max", self.batch_ops_max, keys.len())?;
        let longest = keys.iter().map(Bytes::len).max().unwrap_or(0);
        within("key_bytes_max", self.key_bytes_max, longest)?;
        within("batch_bytes_max", self.batch_bytes_max, keys.iter().map(Bytes::len).sum())
    }
}

/// The bounds of the session table. They travel in the command that registers a session, so that replicas with different configurations still agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLimits {
    /// The most sessions; beyond it the one that was not used for the longest, counted in log entries, is forgotten. Default 10,000.
    pub sessions_max: u32,
    /// The most answered writes above the client's floor that the new session keeps. Default 1,024.
    pub session_pending_max: u32,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits { sessions_max: 10_000, session_pending_max: 1024 }
    }
}

impl SessionLimits {
    /// The most that a replica accepts.
    pub const CEILING: SessionLimits = SessionLimits { sessions_max: 100_000, session_pending_max: 10_000 };

    /// These limits, each at least 1 and none above [`SessionLimits::CEILING`].
    pub fn clamped(self) -> SessionLimits {
        SessionLimits {
            sessions_max: self.sessions_max.clamp(1, SessionLimits::CEILING.sessions_max),
            session_pending_max: self.session_pending_max.clamp(1, SessionLimits::CEILING.session_pending_max),
        }
    }
}

/// `Ok` when `got` is at most `max`.
pub(crate) fn within(limit: &str, max: usize, got: usize) -> Result<()> {
    if got <= max {
        return Ok(());
    }
    Err(Error::LimitExceeded { limit: limit.to_owned(), max: max as u64, got: got as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: usize, value: usize) -> Op {
        Op::Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into() }
    }

    fn exceeded(ops: Vec<Op>) -> String {
        match Limits::default().check(&Txn { ops }) {
            Err(Error::LimitExceeded { limit, max, got }) if got > max => limit,
            other => panic!("expected LimitExceeded, got {other:?}"),
        }
    }

    #[test]
    fn what_is_exactly_at_a_limit_passes() {
        let limits = Limits::default();
        let exact = Txn { ops: vec![put(4096, 1 << 20)] };
        assert_eq!(limits.check(&exact), Ok(()));
        assert_eq!(limits.check(&Txn { ops: vec![put(1, 0); 10_000] }), Ok(()));
        assert_eq!(limits.check(&Txn::default()), Ok(()));
    }

    #[test]
    fn each_limit_is_named_by_its_error() {
        assert_eq!(exceeded(vec![put(4097, 0)]), "key_bytes_max");
        assert_eq!(exceeded(vec![Op::Delete { key: vec![0; 4097].into() }]), "key_bytes_max");
        assert_eq!(exceeded(vec![Op::Increment { key: vec![0; 4097].into(), by: 1 }]), "key_bytes_max");
        assert_eq!(exceeded(vec![put(1, (1 << 20) + 1)]), "value_bytes_max");
        assert_eq!(exceeded(vec![put(1, 1 << 20); 4]), "batch_bytes_max");
        assert_eq!(exceeded(vec![put(1, 0); 10_001]), "batch_ops_max");
    }

    #[test]
    fn keys_of_a_read_are_limited() {
        let limits = Limits::default();
        assert_eq!(limits.check_keys(&vec![Bytes::from_static(b"k"); 10_000]), Ok(()));
        assert!(limits.check_keys(&vec![Bytes::new(); 10_001]).is_err());
        assert!(limits.check_keys(&[vec![0; 4097].into()]).is_err());
    }

    #[test]
    fn nothing_is_configured_beyond_the_ceiling() {
        let wide = Limits { value_bytes_max: usize::MAX, ..Limits::default() };
        assert_eq!(wide.clamped().value_bytes_max, Limits::CEILING.value_bytes_max);
        let none = SessionLimits { sessions_max: 0, session_pending_max: u32::MAX };
        assert_eq!(none.clamped(), SessionLimits { sessions_max: 1, session_pending_max: 10_000 });
    }
}
