//! The next segment, made ready before it is needed, and the files that are not needed any more.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use crate::disk::{Disk, DiskFile, is_full};

/// What a file is called that is not a segment yet; those are deleted when the log is opened.
pub(crate) const SUFFIX: &str = ".spare";
const NAME: &str = "next.spare";

/// A file of zeros, and its size.
pub(crate) type Spare = Option<(Arc<dyn DiskFile>, u64)>;

/// Makes and deletes files, on a thread of its own so that no write waits for it.
pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    /// Locked while one is made: whoever needs it then waits rather than makes another.
    spare: Arc<Mutex<Spare>>,
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
        let mut keeper = Keeper { disk, spare, worker: None };
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

    /// Deletes a segment, sometime: after a crash it may be there again.
    pub(crate) fn remove(&self, name: String) {
        if self.worker.is_some() {
            self.hand(Job::Remove(name));
        } else {
            remove(&*self.disk, &name);
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
    pub(crate) fn take(&self, held: &mut Spare, bytes: u64) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        match held.take().filter(|(_, size)| *size >= bytes) {
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
    while let Ok(job) = queue.recv() {
        match job {
            Job::Make(bytes) => make(disk, &mut lock(spare), bytes),
            Job::Remove(name) => remove(disk, &name),
        }
    }
}

fn make(disk: &dyn Disk, spare: &mut Spare, bytes: u64) {
    if spare.as_ref().is_some_and(|(_, size)| *size >= bytes) {
        return;
    }
    match disk.allocate(NAME, bytes) {
        Ok(file) => *spare = Some((file, bytes)),
        Err(error) if is_full(&error) => {
            tracing::warn!(place = %disk.place(NAME), bytes, "no space for the next segment")
        }
        // Whoever needs it will meet the error.
        Err(error) => tracing::warn!(place = %disk.place(NAME), %error, "the next segment could not be made ready"),
    }
}

fn remove(disk: &dyn Disk, name: &str) {
    if let Err(error) = disk.remove(name) {
        tracing::warn!(place = %disk.place(name), %error, "a segment that is not needed any more could not be deleted");
    }
}

fn lock(spare: &Mutex<Spare>) -> MutexGuard<'_, Spare> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}
