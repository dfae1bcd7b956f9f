//! What makes a retried write take effect once (C22).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;
use coracle_storage::{KvStore, Page, Result, ScanRange};

use super::{
    batch::Batch,
    layout::{self, ReplyRow, SessionRow},
};
use crate::{Error, Once, SessionLimits};

/// The most bytes of replies that a session keeps above the client's floor.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Rows read at once when the table is loaded.
const LOAD_ROWS: usize = 4096;
/// Bytes read at once when the table is loaded.
const LOAD_BYTES: usize = 4 << 20;

/// The session table: a mirror of its rows in the store, and of what the batch will write there.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    table: BTreeMap<u64, Session>,
    /// Ids by the entry that used them last: the first is forgotten first. No two share an entry.
    by_use: BTreeMap<u64, u64>,
    /// Sessions whose row the next batch has to write.
    dirty: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
struct Session {
    /// Every sequence up to here was answered and will not be asked for again.
    floor: u64,
    /// The entry that used it last.
    last_used: u64,
    /// The most replies kept.
    pending_max: u32,
    /// The answered sequences above the floor: the exact set, so that reordered writes are told from repeated ones.
    replies: BTreeMap<u64, ReplyRow>,
    /// The bytes of `replies`.
    bytes: usize,
}

/// What to do with a write.
pub(super) enum Admission {
    /// Execute it, and hand its reply to [`Sessions::answered`].
    Execute,
    /// It was executed: this is its reply.
    Repeated(Bytes),
    /// It changes nothing.
    Refused(Error),
}

impl Sessions {
    /// Reads the table from the store.
    pub(super) fn load(kv: &dyn KvStore) -> Result<Sessions> {
        let mut sessions = Sessions::default();
        for_each_row(kv, layout::SESSION, |row, bytes| {
            let id = layout::parse_session(&row)?;
            let SessionRow { floor, last_used, pending_max } = SessionRow::decode(&row, &bytes)?;
            let session = Session { floor, last_used, pending_max, replies: BTreeMap::new(), bytes: 0 };
            if sessions.by_use.insert(last_used, id).is_some() {
                return Err(layout::damaged(&row, "another session was last used by the same entry"));
            }
            sessions.table.insert(id, session);
            Ok(())
        })?;
        for_each_row(kv, layout::REPLY, |row, bytes| {
            let (id, sequence) = layout::parse_reply(&row)?;
            let reply = ReplyRow::decode(&row, bytes)?;
            let session = sessions.table.get_mut(&id).ok_or_else(|| layout::damaged(&row, "its session is missing"))?;
            session.bytes += reply.reply.len();
            session.replies.insert(sequence, reply);
            Ok(())
        })?;
        Ok(sessions)
    }

    /// Registers the session that entry `index` asks for; the least recently used ones give way.
    pub(super) fn open(&mut self, index: u64, limits: SessionLimits, batch: &mut Batch) {
        let limits = limits.clamped();
        while self.table.len() >= limits.sessions_max as usize {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            self.close(oldest, batch);
        }
        let pending_max = limits.session_pending_max;
        let session = Session { floor: 0, last_used: index, pending_max, replies: BTreeMap::new(), bytes: 0 };
        self.table.insert(index, session);
        self.by_use.insert(index, index);
        self.dirty.insert(index);
    }

    /// Forgets a session, if it is known.
    pub(super) fn close(&mut self, id: u64, batch: &mut Batch) {
        let Some(session) = self.table.remove(&id) else { return };
        self.by_use.remove(&session.last_used);
        self.dirty.remove(&id);
        batch.set(layout::session_key(id), None);
        for sequence in session.replies.into_keys() {
            batch.set(layout::reply_key(id, sequence), None);
        }
    }

    /// Decides about the write that entry `index` asks for; its reply will have `reply_bytes`.
    pub(super) fn admit(&mut self, index: u64, once: Once, reply_bytes: usize, batch: &mut Batch) -> Admission {
        let id = once.session.0;
        let expired = Admission::Refused(Error::SessionExpired(once.session));
        let Some(session) = self.table.get_mut(&id) else { return expired };
        if once.floor >= once.sequence && once.sequence > session.floor {
            return Admission::Refused(Error::Protocol(format!(
                "the floor of a write must be below its sequence: got {} and {}",
                once.floor, once.sequence
            )));
        }
        // A write that the client once took for answered, or no sequence at all: it changes nothing, not even the session's age.
        if once.sequence <= session.floor {
            return expired;
        }
        self.by_use.remove(&session.last_used);
        self.by_use.insert(index, id);
        self.dirty.insert(id);
        session.last_used = index;
        session.raise_floor(id, once.floor, batch);
        if let Some(reply) = session.replies.get(&once.sequence) {
            return Admission::Repeated(reply.reply.clone());
        }
        match session.room(reply_bytes) {
            Ok(()) => Admission::Execute,
            Err(error) => Admission::Refused(error),
        }
    }

    /// Keeps the reply to a write that was admitted.
    pub(super) fn answered(&mut self, index: u64, once: Once, reply: Bytes, batch: &mut Batch) {
        let Some(session) = self.table.get_mut(&once.session.0) else { return };
        let reply = ReplyRow { index, reply };
        batch.set(layout::reply_key(once.session.0, once.sequence), Some(reply.encode()));
        session.bytes += reply.reply.len();
        let earlier = session.replies.insert(once.sequence, reply);
        assert!(earlier.is_none(), "a sequence is answered once: {once:?}");
    }

    /// Puts the rows of the sessions that changed into the batch.
    pub(super) fn write(&mut self, batch: &mut Batch) {
        for id in std::mem::take(&mut self.dirty) {
            if let Some(session) = self.table.get(&id) {
                batch.set(layout::session_key(id), Some(session.row().encode()));
            }
        }
    }

    /// The table as rows of the store.
    pub(super) fn rows(&self) -> Page {
        let mut rows = Page::new();
        for (&id, session) in &self.table {
            rows.push((layout::session_key(id), session.row().encode()));
            let replies = session.replies.iter();
            rows.extend(replies.map(|(&sequence, reply)| (layout::reply_key(id, sequence), reply.encode())));
        }
        rows
    }

    /// How many sessions there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

impl Session {
    fn row(&self) -> SessionRow {
        SessionRow { floor: self.floor, last_used: self.last_used, pending_max: self.pending_max }
    }

    /// Forgets the replies that the client has. An older floor, from a write that was overtaken, changes nothing.
    fn raise_floor(&mut self, id: u64, floor: u64, batch: &mut Batch) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let above = self.replies.split_off(&(floor + 1));
        for (sequence, reply) in std::mem::replace(&mut self.replies, above) {
            self.bytes -= reply.reply.len();
            batch.set(layout::reply_key(id, sequence), None);
        }
    }

    /// Whether there is room for another reply.
    fn room(&self, reply_bytes: usize) -> crate::Result<()> {
        crate::limits::within("session_pending_max", self.pending_max as usize, self.replies.len() + 1)?;
        crate::limits::within("session_pending_bytes_max", PENDING_BYTES_MAX, self.bytes + reply_bytes)
    }
}

fn for_each_row(kv: &dyn KvStore, kind: u8, mut each: impl FnMut(Bytes, Bytes) -> Result<()>) -> Result<()> {
    let mut range: ScanRange = layout::all(kind);
    loop {
        let page = layout::scan(kv, &range, LOAD_ROWS, LOAD_BYTES)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        range.from = Bound::Excluded(last.clone());
        for (row, bytes) in page {
            each(row, bytes)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    fn once(session: u64, sequence: u64, floor: u64) -> Once {
        Once { session: SessionId(session), sequence, floor }
    }

    fn limits(sessions_max: u32, session_pending_max: u32) -> SessionLimits {
        SessionLimits { sessions_max, session_pending_max }
    }

    struct Table {
        sessions: Sessions,
        batch: Batch,
        index: u64,
    }

    impl Table {
        fn new() -> Table {
            Table { sessions: Sessions::default(), batch: Batch::default(), index: 0 }
        }

        fn open(&mut self, limits: SessionLimits) -> u64 {
            self.index += 1;
            self.sessions.open(self.index, limits, &mut self.batch);
            self.index
        }

        /// Executes a write unless it is refused or repeated, and names what happened.
        fn write(&mut self, once: Once) -> String {
            self.index += 1;
            match self.sessions.admit(self.index, once, 3, &mut self.batch) {
                Admission::Execute => {
                    let reply = Bytes::from(format!("r{}", self.index));
                    self.sessions.answered(self.index, once, reply.clone(), &mut self.batch);
                    String::from_utf8(reply.to_vec()).unwrap()
                }
                Admission::Repeated(reply) => format!("again {}", String::from_utf8(reply.to_vec()).unwrap()),
                Admission::Refused(Error::SessionExpired(_)) => "expired".to_owned(),
                Admission::Refused(Error::LimitExceeded { limit, .. }) => limit,
                Admission::Refused(error) => error.to_string(),
            }
        }
    }

    #[test]
    fn c22_a_repeated_write_gets_its_first_reply() {
        let mut table = Table::new();
        let id = table.open(limits(9, 9));
        assert_eq!(table.write(once(id, 1, 0)), "r2");
        assert_eq!(table.write(once(id, 1, 0)), "again r2");
    }

    #[test]
    fn h65_an_overtaken_write_still_takes_effect() {
        let mut table = Table::new();
        let id = table.open(limits(9, 9));
        assert_eq!(table.write(once(id, 3, 0)), "r2");
        assert_eq!(table.write(once(id, 1, 0)), "r3");
        assert_eq!(table.write(once(id, 3, 0)), "again r2");
        assert_eq!(table.write(once(id, 2, 0)), "r5");
    }

    #[test]
    fn h65_a_session_is_never_made_implicitly() {
        let mut table = Table::new();
        assert_eq!(table.write(once(7, 1, 0)), "expired");
        let id = table.open(limits(9, 9));
        table.sessions.close(id, &mut table.batch);
        assert_eq!(table.write(once(id, 1, 0)), "expired");
        assert_eq!(table.sessions.len(), 0);
    }

    #[test]
    fn c22_at_or_below_the_floor_nothing_is_executed() {
        let mut table = Table::new();
        let id = table.open(limits(9, 9));
        assert_eq!(table.write(once(id, 1, 0)), "r2");
        assert_eq!(table.write(once(id, 4, 2)), "r3");
        for sequence in [0, 1, 2] {
            assert_eq!(table.write(once(id, sequence, 0)), "expired");
        }
        assert_eq!(table.write(once(id, 3, 0)), "r7", "above the floor, never seen");
        assert!(table.write(once(id, 6, 6)).contains("got 6 and 6"));
    }

    #[test]
    fn c22_the_set_is_bounded_and_the_floor_makes_room() {
        let mut table = Table::new();
        let id = table.open(limits(9, 2));
        assert_eq!(table.write(once(id, 1, 0)), "r2");
        assert_eq!(table.write(once(id, 2, 0)), "r3");
        assert_eq!(table.write(once(id, 3, 0)), "session_pending_max");
        assert_eq!(table.write(once(id, 2, 0)), "again r3", "a full set still knows its writes");
        assert_eq!(table.write(once(id, 3, 1)), "r6");
    }

    #[test]
    fn c22_the_session_unused_for_longest_gives_way() {
        let mut table = Table::new();
        let (first, second) = (table.open(limits(2, 9)), table.open(limits(2, 9)));
        assert_eq!(table.write(once(first, 1, 0)), "r3");
        let third = table.open(limits(2, 9));
        assert_eq!(table.write(once(second, 1, 0)), "expired");
        assert_eq!(table.write(once(first, 1, 0)), "again r3");
        assert_eq!(table.write(once(third, 1, 0)), "r7");
        assert_eq!(table.sessions.len(), 2);
    }

    #[test]
    fn replies_are_bounded_in_bytes() {
        let mut table = Table::new();
        let id = table.open(limits(9, 9));
        table.index += 1;
        let admitted = table.sessions.admit(table.index, once(id, 1, 0), PENDING_BYTES_MAX + 1, &mut table.batch);
        assert!(
            matches!(admitted, Admission::Refused(Error::LimitExceeded { limit, .. }) if limit == "session_pending_bytes_max")
        );
    }
}
