//! An ordered map in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use coracle_core::Index;
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};
use smallvec::SmallVec;

/// A key. Up to 24 bytes lie in the map itself: to compare them the processor waits for no other memory, which is most of what a lookup costs.
type Key = SmallVec<[u8; 24]>;

/// Up to so many bytes a value is copied rather than shared.
const SHORT_BYTES_MAX: usize = 1024;

/// A value.
#[derive(Debug)]
enum Value {
    /// One that nobody else has: the next of the same length is written over it, into memory that is in the processor's cache since the look at the old one.
    Short(Box<[u8]>),
    /// Boxed, so that a value takes half as much room in the map.
    Long(Box<Bytes>),
}

impl Value {
    fn new(bytes: Bytes) -> Value {
        if bytes.len() <= SHORT_BYTES_MAX { Value::Short(bytes[..].into()) } else { Value::Long(bytes.into()) }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Value::Short(bytes) => bytes,
            Value::Long(bytes) => bytes,
        }
    }

    fn to_bytes(&self) -> Bytes {
        match self {
            Value::Short(bytes) => Bytes::copy_from_slice(bytes),
            Value::Long(bytes) => Bytes::clone(bytes),
        }
    }

    fn set(&mut self, bytes: Bytes) {
        match self {
            Value::Short(old) if old.len() == bytes.len() => old.copy_from_slice(&bytes),
            _ => *self = Value::new(bytes),
        }
    }
}

/// One group's data.
#[derive(Debug, Default)]
pub(crate) struct MemoryKvStore {
    data: RwLock<Data>,
}

#[derive(Debug, Default)]
struct Data {
    map: BTreeMap<Key, Value>,
    applied: Index,
    is_replacing: bool,
}

impl MemoryKvStore {
    fn read(&self) -> RwLockReadGuard<'_, Data> {
        self.data.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> RwLockWriteGuard<'_, Data> {
        self.data.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvStore for MemoryKvStore {
    fn applied(&self) -> Result<Option<Index>> {
        let data = self.read();
        Ok((!data.is_replacing).then_some(data.applied))
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(false)?;
        for op in batch {
            match op {
                KvOp::Put(key, bytes) => data.put(&key, bytes),
                KvOp::Delete(key) => {
                    data.map.remove(&key[..]);
                }
            }
        }
        data.applied = applied;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.read().map.get(key).map(Value::to_bytes))
    }

    fn inspect(&self, key: &[u8], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        see(self.read().map.get(key).map(Value::as_slice));
        Ok(())
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::new());
        }
        let data = self.read();
        let bounds = (bound(&range.from), bound(&range.to));
        let rows = data.map.range::<[u8], _>(bounds);
        Ok(if range.reverse { page(rows.rev(), count_max, bytes_max) } else { page(rows, count_max, bytes_max) })
    }

    fn flush(&self) -> Result<Index> {
        let data = self.read();
        data.expect_replacing(false)?;
        Ok(data.applied)
    }

    fn replace_begin(&self) -> Result<()> {
        *self.locked() = Data { is_replacing: true, ..Data::default() };
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(true)?;
        data.map.extend(page.into_iter().map(|(key, value)| (Key::from_slice(&key), Value::new(value))));
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(true)?;
        data.is_replacing = false;
        data.applied = applied;
        Ok(())
    }

    fn never_blocks(&self) -> bool {
        true
    }
}

impl Data {
    fn put(&mut self, key: &[u8], bytes: Bytes) {
        match self.map.get_mut(key) {
            Some(value) => value.set(bytes),
            None => {
                self.map.insert(Key::from_slice(key), Value::new(bytes));
            }
        }
    }

    fn expect_replacing(&self, expected: bool) -> Result<()> {
        match (self.is_replacing, expected) {
            (true, false) => Err(StorageError::Invalid("the data is being replaced".into())),
            (false, true) => Err(StorageError::Invalid("no replacement of the data was begun".into())),
            _ => Ok(()),
        }
    }
}

fn bound(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

fn page<'a>(rows: impl Iterator<Item = (&'a Key, &'a Value)>, count_max: usize, bytes_max: usize) -> Page {
    let (mut page, mut bytes) = (Page::new(), 0);
    for (key, value) in rows {
        bytes += key.len() + value.as_slice().len();
        page.push((Bytes::copy_from_slice(key), value.to_bytes()));
        if page.len() >= count_max || bytes >= bytes_max {
            break;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_when_its_value_is_written_over() {
        let kv = MemoryKvStore::default();
        for len in [0, 1, SHORT_BYTES_MAX, SHORT_BYTES_MAX + 1] {
            for key_len in [0, 24, 25] {
                let key = Bytes::from(vec![b'k'; key_len]);
                let values = [vec![1; len], vec![2; len], vec![3; len + 1], vec![4; 2 * len]].map(Bytes::from);
                let mut read = Vec::new();
                for value in &values {
                    kv.write(vec![KvOp::Put(key.clone(), value.clone())], Index(1)).unwrap();
                    let page = kv.scan(&ScanRange::all(), 1, 1).unwrap();
                    assert_eq!(page, [(key.clone(), value.clone())]);
                    read.push(kv.get(&key).unwrap().unwrap());
                    let mut seen = None;
                    kv.inspect(&key, &mut |bytes| seen = bytes.map(Bytes::copy_from_slice)).unwrap();
                    assert_eq!(seen.as_ref(), Some(value));
                }
                assert_eq!(read, values);
                kv.write(vec![KvOp::Delete(key.clone())], Index(2)).unwrap();
                assert_eq!(kv.get(&key).unwrap(), None);
            }
        }
    }
}
