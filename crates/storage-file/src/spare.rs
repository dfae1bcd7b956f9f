//! The next segment, made ready before it is needed, and the files that are not needed any more.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use crate::disk::{Disk, DiskFile, is_full};

/// What a file is called that is not a segment yet; those are deleted when the log is opened.
pub(crate) const SUFFIX: &str = ".spare";
const NAME: &str = "next.spare";

/// A file of zeros, and its size; or why it could not be made.
pub(crate) type Spare = Option<io::Result<(Arc<dyn DiskFile>, u64)>>;

/// Makes and deletes files, on a thread of its own so that no write waits for it.
pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    /// Locked while one is made: whoever needs it then waits rather than makes another.
    spare: Arc<Mutex<Spare>>,
    /// What is to be deleted, if there is no thread.
    removals: Removals,
    /// Without a thread everything is done at once, and nothing is made ready.
    worker: Option<(mpsc::Sender<Job>, JoinHandle<()>)>,
}

enum Job {
    Make(u64),
    Remove(String),
}

impl Keeper {
    pub(crate) fn new(disk: Arc<dyn Disk>, has_thread: bool) -> io::Result<Keeper> {
        let spare: Arc<Mutex<Spare>> = Arc::default();
        let mut keeper = Keeper { disk, spare, removals: Removals::default(), worker: None };
        if has_thread {
            let (jobs, queue) = mpsc::channel();
            let (disk, spare) = (keeper.disk.clone(), keeper.spare.clone());
            let thread =
                thread::Builder::new().name("coracle-segments".into()).spawn(move || run(&*disk, &spare, &queue))?;
            keeper.worker = Some((jobs, thread));
        }
        Ok(keeper)
    }

    /// Asks for a file to be made ready.
    pub(crate) fn prepare(&self, bytes: u64) {
        self.hand(Job::Make(bytes));
    }

    /// Deletes a segment, sometime, after those before it: after a crash it may be there again.
    pub(crate) fn remove(&mut self, name: String) {
        if self.worker.is_some() {
            self.hand(Job::Remove(name));
        } else {
            self.removals.add(&*self.disk, name);
        }
    }

    fn hand(&self, job: Job) {
        if let Some((jobs, _)) = &self.worker {
            // It fails only when the thread has panicked; then files are made when they are needed.
            drop(jobs.send(job));
        }
    }

    /// Keeps the thread from making a file for as long as the one that is taken has that file's name.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Spare> {
        lock(&self.spare)
    }

    /// A file of at least `bytes` zeros, and its size: the one that was made ready, or a new one. It is called [`Keeper::name`] until it is given another.
    /// What failed when it was made ready is not tried again: the disk is not to be trusted any more (C18).
    pub(crate) fn take(&self, held: &mut Spare, bytes: u64) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        match held.take().transpose()?.filter(|(_, size)| *size >= bytes) {
            Some(spare) => Ok(spare),
            None => Ok((self.disk.allocate(NAME, bytes)?, bytes)),
        }
    }

    /// What the file is called that [`Keeper::take`] gave.
    pub(crate) fn name(&self) -> &'static str {
        NAME
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.worker.take() {
            drop(jobs);
            // A panic was reported where it happened.
            drop(thread.join());
        }
    }
}

fn run(disk: &dyn Disk, spare: &Mutex<Spare>, queue: &mpsc::Receiver<Job>) {
    let mut removals = Removals::default();
    while let Ok(job) = queue.recv() {
        match job {
            Job::Make(bytes) => make(disk, &mut lock(spare), bytes),
            Job::Remove(name) => removals.add(disk, name),
        }
    }
}

fn make(disk: &dyn Disk, spare: &mut Spare, bytes: u64) {
    if spare.as_ref().is_some_and(|spare| spare.as_ref().map_or(true, |(_, size)| *size >= bytes)) {
        return;
    }
    match disk.allocate(NAME, bytes) {
        Ok(file) => *spare = Some(Ok((file, bytes))),
        Err(error) if is_full(&error) => {
            tracing::warn!(place = %disk.place(NAME), bytes, "no space for the next segment");
        }
        // Whoever needs it will meet the error.
        Err(error) => {
            tracing::warn!(place = %disk.place(NAME), %error, "the next segment could not be made ready");
            *spare = Some(Err(error));
        }
    }
}

/// Segments that are to be deleted. They go in order: one that is missing between two others is lost log.
#[derive(Default)]
struct Removals(VecDeque<String>);

impl Removals {
    /// Deletes what waits, and then this one; behind one that cannot be deleted all wait for the next attempt.
    fn add(&mut self, disk: &dyn Disk, name: String) {
        self.0.push_back(name);
        while let Some(name) = self.0.front() {
            if let Err(error) = disk.remove(name) {
                let place = disk.place(name);
                tracing::warn!(%place, %error, "a segment that is not needed any more could not be deleted");
                return;
            }
            self.0.pop_front();
        }
    }
}

fn lock(spare: &Mutex<Spare>) -> MutexGuard<'_, Spare> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}
