//! A disk in memory whose power can be cut, for tests and fuzzing.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    disk::{Disk, DiskFile},
    format::SECTOR,
};

/// What is on the disk and what is only in its cache. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    shared: Arc<Mutex<State>>,
}

#[derive(Clone)]
pub(crate) struct State {
    /// As every process sees them.
    names: BTreeMap<String, u64>,
    /// As they are after a power cut.
    durable_names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// How many bytes may still be reserved.
    pub(crate) space: u64,
    /// What each further sync and write does.
    pub(crate) fails_sync: bool,
    pub(crate) fails_write: bool,
    pub(crate) fails_remove: bool,
    pub(crate) syncs: usize,
    pub(crate) writes: usize,
    /// How the disk was after each call, if that is wanted.
    pub(crate) history: Option<Vec<State>>,
}

impl Default for State {
    fn default() -> State {
        State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            files: BTreeMap::new(),
            next_file: 0,
            space: u64::MAX,
            fails_sync: false,
            fails_write: false,
            fails_remove: false,
            syncs: 0,
            writes: 0,
            history: None,
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    /// Sectors of which a sync has failed: still seen, and written by no other sync.
    dropped: Vec<(usize, [u8; SECTOR])>,
    /// Sectors in the order in which they were written.
    cached: Vec<(usize, [u8; SECTOR])>,
}

impl Content {
    fn write_sector(&mut self, at: usize, sector: &[u8; SECTOR]) {
        let end = (at + SECTOR).min(self.durable.len());
        self.durable[at..end].copy_from_slice(&sector[..end - at]);
    }

    fn sync(&mut self) {
        for (at, sector) in std::mem::take(&mut self.cached) {
            self.write_sector(at, &sector);
        }
    }

    fn seen(&self) -> Vec<u8> {
        let mut whole = self.clone();
        for (at, sector) in std::mem::take(&mut whole.dropped) {
            whole.write_sector(at, &sector);
        }
        whole.sync();
        whole.durable
    }

    fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }
}

impl State {
    fn record(&mut self) {
        if let Some(mut history) = self.history.take() {
            history.push(self.clone());
            self.history = Some(history);
        }
    }

    fn file(&mut self, file: u64) -> &mut Content {
        self.files.entry(file).or_default()
    }

    /// How many sectors a power cut may lose.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> usize {
        let sectors: usize = self.files.values().map(|file| file.cached.len()).sum();
        sectors + usize::from(self.names != self.durable_names)
    }

    /// What another process finds when this one is killed: nothing is lost, and nothing more is durable.
    #[cfg(test)]
    pub(crate) fn kill(&self) -> SimDisk {
        SimDisk { shared: Arc::new(Mutex::new(State { history: None, ..self.clone() })) }
    }

    /// What is on the disk after a power cut that only those sectors survive for which `survives` says so.
    pub(crate) fn cut(&self, survives: impl Fn(usize) -> bool) -> SimDisk {
        let mut state = State { history: None, ..self.clone() };
        let mut number = 0;
        for file in state.files.values_mut() {
            file.dropped.clear();
            for (at, sector) in std::mem::take(&mut file.cached) {
                if survives(number) {
                    file.write_sector(at, &sector);
                }
                number += 1;
            }
        }
        if state.names != state.durable_names && !survives(number) {
            state.names = state.durable_names.clone();
        }
        state.durable_names = state.names.clone();
        SimDisk { shared: Arc::new(Mutex::new(state)) }
    }
}

impl SimDisk {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to record how the disk is after each call, and how it is before.
    pub(crate) fn begin_history(&self) {
        let mut state = self.lock();
        state.history = Some(Vec::new());
        state.record();
    }

    /// How many syncs and writes there were.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.syncs, state.writes)
    }

    /// The names and the contents of all files.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[file].seen())).collect()
    }

    /// Changes what is on the disk.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let file = state.names[name];
        state.file(file).sync();
        edit(&mut state.file(file).durable);
    }

    /// Another disk with the same content, all of it durable.
    #[cfg(test)]
    pub(crate) fn copy(&self) -> SimDisk {
        self.lock().cut(|_| true)
    }

    fn handle(&self, file: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn allocate(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if state.space < bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.space -= bytes;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content { durable: vec![0; bytes as usize], ..Content::default() });
        state.names.insert(name.to_owned(), file);
        state.record();
        drop(state);
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.record();
        drop(state);
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.durable_names = state.names.clone();
        state.record();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.fails_remove {
            return Err(io::Error::from_raw_os_error(5));
        }
        if let Some(file) = state.names.remove(name) {
            state.space = state.space.saturating_add(state.files[&file].durable.len() as u64);
        }
        state.record();
        drop(state);
        self.sync_names()
    }

    fn place(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().file(self.file).durable.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let file = state.file(self.file);
        let seen = if file.cached.is_empty() && !file.has_dropped() {
            Cow::Borrowed(&file.durable)
        } else {
            Cow::Owned(file.seen())
        };
        let range = offset as usize..offset as usize + buffer.len();
        buffer.copy_from_slice(seen.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset.is_multiple_of(SECTOR as u64) && bytes.len().is_multiple_of(SECTOR), "whole sectors");
        let mut state = self.disk.lock();
        state.writes += 1;
        let count = if state.fails_write { 1 } else { bytes.len() / SECTOR };
        for (number, sector) in bytes.as_chunks::<SECTOR>().0.iter().take(count).enumerate() {
            state.file(self.file).cached.push((offset as usize + number * SECTOR, *sector));
        }
        state.record();
        if state.fails_write { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.syncs += 1;
        if state.fails_sync {
            // The system lets go of what it could not write, and does not try again.
            let file = state.file(self.file);
            let lost = std::mem::take(&mut file.cached);
            file.dropped.extend(lost);
            return Err(io::Error::from_raw_os_error(5));
        }
        state.file(self.file).sync();
        state.record();
        Ok(())
    }
}
