//! Key-value data: a sorted set for the order of the keys, a hash for the values.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use coracle_core::{GroupId, Index};
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};
use redis::Value;

use crate::{
    answer, lock,
    script::{Commands, Kind, Script},
    server::{Lane, Server},
};

/// The index that came with the last batch, in decimal; absent while the data is replaced, and in new data.
const APPLIED: &str = "applied";
/// There while the data is replaced.
const REPLACING: &str = "replacing";

/// How much one request reads or adds to new data: a server does nothing else meanwhile.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 4_096;

/// One group's data. A batch is one script; it is as durable as the server makes it when `write` returns.
pub(crate) struct RedisKv {
    server: Arc<Server>,
    lane: Lane,
    meta_key: String,
    order_key: String,
    values_key: String,
    meta: Mutex<Meta>,
}

/// What the last write left behind.
#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    applied: Index,
    is_replacing: bool,
}

impl RedisKv {
    pub(crate) fn open(server: Arc<Server>, group: GroupId) -> Result<RedisKv> {
        let meta_key = server.key(&format!("kv:{group}"));
        let mut commands = Commands::default();
        commands.push("HMGET", &meta_key, Kind::Hash, [APPLIED.into(), REPLACING.into()]);
        let answered = server.read(commands)?;
        let Some(Value::Array(fields)) = answered.first() else { return Err(server.malformed("no fields")) };
        let [applied, replacing] = &fields[..] else { return Err(server.malformed("another number of fields")) };
        let is_new = *applied == Value::Nil;
        let applied = if is_new { 0 } else { answer::number(applied).map_err(|what| server.malformed(&what))? };
        Ok(RedisKv {
            lane: Lane::new(format!("kv:{group}")),
            order_key: format!("{meta_key}:keys"),
            values_key: format!("{meta_key}:values"),
            meta: Mutex::new(Meta { applied: Index(applied), is_replacing: *replacing != Value::Nil }),
            meta_key,
            server,
        })
    }

    /// Puts rows, removes keys.
    fn change(&self, commands: &mut Commands, rows: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) {
        let (mut order, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in rows {
            match value {
                Some(value) => {
                    order.extend([b"0".to_vec(), key.to_vec()]);
                    values.extend([key.to_vec(), value.to_vec()]);
                }
                None => gone.push(key.to_vec()),
            }
        }
        commands.push_all("HDEL", &self.values_key, Kind::Hash, gone.clone());
        commands.push_all("ZREM", &self.order_key, Kind::Sorted, gone);
        commands.push_all("HSET", &self.values_key, Kind::Hash, values);
        commands.push_all("ZADD", &self.order_key, Kind::Sorted, order);
    }

    /// A key is in both places or in none: else somebody threw one of them away.
    fn half(&self, what: &str, key: &[u8]) -> StorageError {
        StorageError::damaged(&self.server.place, format!("{what} the key \"{}\"", key.escape_ascii()))
    }

    /// One page of a scan, from `lower` to `upper` as the server writes bounds.
    fn page(&self, range: &ScanRange, bounds: &[Vec<u8>; 2], rows: usize, bytes: usize) -> Result<Page> {
        let (command, [first, last]) = match (range.reverse, bounds) {
            (false, [lower, upper]) => ("ZRANGEBYLEX", [lower, upper]),
            (true, [lower, upper]) => ("ZREVRANGEBYLEX", [upper, lower]),
        };
        let limits = [rows.min(PAGE_ROWS), bytes.min(PAGE_BYTES)].map(|limit| limit.to_string().into_bytes());
        let args = [command.into(), first.clone(), last.clone()].into_iter().chain(limits);
        let answered = self.server.query(Script::Scan, [self.order_key.clone(), self.values_key.clone()], args)?;
        let mut page = Page::with_capacity(answered.len() / 2);
        let mut answered =
            answered.into_iter().map(|value| answer::bytes(value).map_err(|what| self.server.malformed(&what)));
        while let Some(key) = answered.next() {
            let key = key?.unwrap_or_default();
            match answered.next().transpose()?.flatten() {
                Some(value) => page.push((key, value)),
                None => return Err(self.half("the value is missing of", &key)),
            }
        }
        Ok(page)
    }
}

impl KvStore for RedisKv {
    fn applied(&self) -> Result<Option<Index>> {
        self.server.check()?;
        let meta = lock(&self.meta);
        Ok((!meta.is_replacing).then_some(meta.applied))
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        let mut meta = lock(&self.meta);
        meta.expect_replacing(false)?;
        let rows: BTreeMap<Bytes, Option<Bytes>> = batch
            .into_iter()
            .map(|op| match op {
                KvOp::Put(key, value) => (key, Some(value)),
                KvOp::Delete(key) => (key, None),
            })
            .collect();
        let mut commands = Commands::default();
        let expected = if meta.applied == Index::ZERO { String::new() } else { meta.applied.to_string() };
        commands.check(&self.meta_key, APPLIED, &expected);
        self.change(&mut commands, rows);
        if applied != Index::ZERO {
            commands.set(&self.meta_key, APPLIED, applied.to_string());
        }
        self.server.write(&self.lane, commands)?;
        meta.applied = applied;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut commands = Commands::default();
        commands.push("HGET", &self.values_key, Kind::Hash, [key.to_vec()]);
        commands.push("ZSCORE", &self.order_key, Kind::Sorted, [key.to_vec()]);
        let mut answered = self.server.read(commands)?.into_iter();
        let value = answered.next().map_or(Ok(None), answer::bytes).map_err(|what| self.server.malformed(&what))?;
        let is_key = answered.next().is_some_and(|score| score != Value::Nil);
        match value {
            Some(_) if !is_key => Err(self.half("there is a value, but not", key)),
            None if is_key => Err(self.half("the value is missing of", key)),
            value => Ok(value),
        }
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        let mut page = Page::new();
        if range.is_empty() {
            return Ok(page);
        }
        let mut bounds = [bound(&range.from, b'-'), bound(&range.to, b'+')];
        let mut bytes_left = bytes_max;
        loop {
            // At least one, however little was asked for.
            let rows = (count_max - page.len().min(count_max)).max(1);
            let more = self.page(range, &bounds, rows, bytes_left.max(1))?;
            let Some((last, _)) = more.last() else { return Ok(page) };
            bounds[usize::from(range.reverse)] = bound(&Bound::Excluded(last.clone()), b'-');
            bytes_left =
                more.iter().fold(bytes_left, |left, (key, value)| left.saturating_sub(key.len() + value.len()));
            page.extend(more);
            if page.len() >= count_max || bytes_left == 0 {
                return Ok(page);
            }
        }
    }

    fn flush(&self) -> Result<Index> {
        self.server.check()?;
        let meta = lock(&self.meta);
        meta.expect_replacing(false)?;
        Ok(meta.applied)
    }

    fn replace_begin(&self) -> Result<()> {
        let mut meta = lock(&self.meta);
        let mut commands = Commands::default();
        commands.set(&self.meta_key, REPLACING, "1");
        commands.push("HDEL", &self.meta_key, Kind::Hash, [APPLIED.into()]);
        commands.unlink(&self.order_key, Kind::Sorted);
        commands.unlink(&self.values_key, Kind::Hash);
        self.server.write(&self.lane, commands)?;
        *meta = Meta { applied: Index::ZERO, is_replacing: true };
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let meta = lock(&self.meta);
        meta.expect_replacing(true)?;
        let mut rows = page.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut portion, mut bytes) = (Vec::new(), 0);
            while let Some((key, value)) = rows.next_if(|_| bytes < PAGE_BYTES && portion.len() < PAGE_ROWS) {
                bytes += key.len() + value.len();
                portion.push((key, Some(value)));
            }
            let mut commands = Commands::default();
            commands.check(&self.meta_key, REPLACING, "1");
            self.change(&mut commands, portion);
            self.server.write(&self.lane, commands)?;
        }
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        let mut meta = lock(&self.meta);
        meta.expect_replacing(true)?;
        let mut commands = Commands::default();
        commands.check(&self.meta_key, REPLACING, "1");
        commands.push("HDEL", &self.meta_key, Kind::Hash, [REPLACING.into()]);
        if applied != Index::ZERO {
            commands.set(&self.meta_key, APPLIED, applied.to_string());
        }
        self.server.write(&self.lane, commands)?;
        *meta = Meta { applied, is_replacing: false };
        Ok(())
    }
}

impl Meta {
    fn expect_replacing(&self, expected: bool) -> Result<()> {
        match (self.is_replacing, expected) {
            (true, false) => Err(StorageError::Invalid("the data is being replaced".into())),
            (false, true) => Err(StorageError::Invalid("no replacement of the data was begun".into())),
            _ => Ok(()),
        }
    }
}

/// A bound as the server writes it.
fn bound(bound: &Bound<Bytes>, unbounded: u8) -> Vec<u8> {
    let marked = |mark: u8, key: &Bytes| [&[mark], &key[..]].concat();
    match bound {
        Bound::Included(key) => marked(b'[', key),
        Bound::Excluded(key) => marked(b'(', key),
        Bound::Unbounded => vec![unbounded],
    }
}
