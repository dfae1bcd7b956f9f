//! The server as the store sees it: requests that wait for it, numbered writes, the end.

use std::{
    collections::HashMap,
    io,
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use coracle_storage::{Durability, Result, StorageError};
use redis::Value;

use crate::{
    RedisOptions,
    answer::{self, Answer},
    link::{Link, Trouble},
    lock,
    script::{self, Call, Commands},
    url::RedisUrl,
};

/// The first pause before a request is tried again, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// How many connections are kept for the next request.
const IDLE_MAX: usize = 16;
/// The name that a connection shows to the server: by it another process sees that the owner is there.
pub(crate) const CLIENT_NAME: &str = "coracle:";

/// A server and one namespace on it.
pub(crate) struct Server {
    pub(crate) place: String,
    pub(crate) options: RedisOptions,
    pub(crate) client: redis::Client,
    /// This owner's mark, new for each opening.
    pub(crate) token: String,
    prefix: String,
    epoch: Mutex<Option<String>>,
    idle: Mutex<Vec<Link>>,
    /// The number of the last acknowledged write in each lane: what the server must have.
    acknowledged: Mutex<HashMap<String, u64>>,
    condition: Mutex<Condition>,
    changed: Condvar,
}

/// What may change while the store is open.
pub(crate) struct Condition {
    /// Why nothing is accepted any more.
    stopped: Option<End>,
    pub(crate) durability: Durability,
    /// Whether the server does not tell if it may throw keys away.
    pub(crate) is_eviction_unknown: bool,
    /// Which run of the server was last met: another one was started anew.
    pub(crate) run_id: String,
}

/// Why the store has ended.
enum End {
    /// The server came back with less: whoever asks is told of that, not only the first.
    Lost(String),
    /// Anything else.
    Stopped(String),
}

/// A lane: writes that follow each other, each numbered.
#[derive(Debug)]
pub(crate) struct Lane {
    name: String,
    turn: Mutex<()>,
}

impl Lane {
    pub(crate) fn new(name: impl Into<String>) -> Lane {
        Lane { name: name.into(), turn: Mutex::default() }
    }
}

impl Server {
    /// A server that was not connected to yet.
    pub(crate) fn new(url: &RedisUrl, client: redis::Client, options: RedisOptions, token: String) -> Server {
        let condition = Condition {
            stopped: None,
            durability: Durability::Volatile,
            is_eviction_unknown: true,
            run_id: String::new(),
        };
        Server {
            place: url.to_string(),
            options,
            client,
            token,
            // In braces: a cluster of servers keeps what has the same tag together.
            prefix: format!("coracle:{{{}}}:", url.namespace()),
            epoch: Mutex::default(),
            idle: Mutex::default(),
            acknowledged: Mutex::default(),
            condition: Mutex::new(condition),
            changed: Condvar::new(),
        }
    }

    /// The name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn owner_key(&self) -> String {
        self.key("owner")
    }

    pub(crate) fn lanes_key(&self) -> String {
        self.key("lanes")
    }

    /// The epoch under which this owner has the fence; `None` before it took it.
    pub(crate) fn epoch(&self) -> Option<String> {
        lock(&self.epoch).clone()
    }

    pub(crate) fn condition(&self) -> std::sync::MutexGuard<'_, Condition> {
        lock(&self.condition)
    }

    pub(crate) fn acknowledged(&self) -> HashMap<String, u64> {
        lock(&self.acknowledged).clone()
    }

    /// The fence was taken under `epoch`; the lanes are where the server says.
    pub(crate) fn begin(&self, epoch: String, lanes: HashMap<String, u64>) {
        *lock(&self.acknowledged) = lanes;
        *lock(&self.epoch) = Some(epoch);
    }

    /// Ends every wait and refuses what comes.
    pub(crate) fn close(&self) {
        self.stop(End::Stopped("the store was closed".to_owned()));
    }

    fn stop(&self, end: End) {
        self.condition().stopped.get_or_insert(end);
        self.changed.notify_all();
        lock(&self.idle).clear();
    }

    /// An error that ends the store: later requests are refused with it.
    pub(crate) fn fatal(&self, error: StorageError) -> StorageError {
        self.stop(match &error {
            StorageError::Lost { what, .. } => End::Lost(what.clone()),
            error => End::Stopped(error.to_string()),
        });
        error
    }

    /// # Errors
    /// [`StorageError::Lost`] once the server came back with less, [`StorageError::Stopped`] after another fatal error, or when the store was closed.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.condition().stopped {
            Some(End::Lost(what)) => Err(self.lost(what.clone())),
            Some(End::Stopped(why)) => Err(StorageError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    /// Reads with one request.
    pub(crate) fn read(&self, commands: Commands) -> Result<Vec<Value>> {
        let call = commands.read(&self.owner_key(), &self.lanes_key(), &self.fence()?);
        self.call(&call)
    }

    /// Calls a script that reads: its keys after the owner's, its arguments after the epoch.
    pub(crate) fn query(
        &self,
        script: script::Script,
        keys: impl IntoIterator<Item = String>,
        args: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Vec<Value>> {
        let keys = [self.owner_key()].into_iter().chain(keys).collect();
        let args = [self.fence()?.into_bytes()].into_iter().chain(args).collect();
        self.call(&Call { script, keys, args })
    }

    /// Writes as the next in its lane: exactly once when this returns `Ok`.
    pub(crate) fn write(&self, lane: &Lane, commands: Commands) -> Result<()> {
        let _turn = lock(&lane.turn);
        let number = lock(&self.acknowledged).get(&lane.name).copied().unwrap_or(0) + 1;
        let call = commands.write(&self.owner_key(), &self.lanes_key(), &self.fence()?, &lane.name, number);
        self.call(&call)?;
        lock(&self.acknowledged).insert(lane.name.clone(), number);
        Ok(())
    }

    fn fence(&self) -> Result<String> {
        self.epoch().ok_or_else(|| StorageError::Stopped("the store is not open".into()))
    }

    /// Sends a call until it is answered, or the store ends. What is sent again has the same number.
    fn call(&self, call: &Call) -> Result<Vec<Value>> {
        self.patiently(None, || {
            let mut link = self.link()?;
            let answered = link.call(call);
            // What the server answered is whole, also when it is an error; else the connection is of no more use.
            if !matches!(answered, Err(Trouble::Disconnected(_))) {
                self.put_back(link);
            } else {
                lock(&self.idle).clear();
            }
            let answer = answer::parse(answered?).map_err(|error| Trouble::Fatal(self.malformed(&error)))?;
            self.judge(answer)
        })
    }

    /// Does something again while the server is away, refuses what surely changed nothing, or loads: a slow disk (C18).
    pub(crate) fn patiently<T>(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> std::result::Result<T, Trouble>,
    ) -> Result<T> {
        let mut pause = Duration::ZERO;
        let mut waited = None;
        loop {
            self.check()?;
            let why = match attempt() {
                Ok(done) => {
                    if let Some(since) = waited {
                        let waited: Duration = Instant::now() - since;
                        tracing::info!(place = self.place, ?waited, "the Redis server answers again");
                    }
                    return Ok(done);
                }
                Err(Trouble::Fatal(error)) => {
                    self.note_loss(&error);
                    return Err(self.fatal(error));
                }
                Err(Trouble::Disconnected(why) | Trouble::Refused(why)) => why,
            };
            if until.is_some_and(|until| Instant::now() >= until) {
                let source = io::Error::new(io::ErrorKind::TimedOut, why);
                return Err(StorageError::io(format!("open {}", self.place), source));
            }
            // The first time it may have been an old connection: at once, without a word.
            if pause > Duration::ZERO && waited.is_none() {
                waited = Some(Instant::now());
                tracing::warn!(place = self.place, why, "waiting for the Redis server");
            }
            self.pause(pause);
            pause = (pause * 2).clamp(PAUSES[0], PAUSES[1]);
        }
    }

    /// Waits, unless the store ends.
    fn pause(&self, pause: Duration) {
        let condition = self.condition();
        let is_open = |condition: &mut Condition| condition.stopped.is_none();
        drop(self.changed.wait_timeout_while(condition, pause, is_open));
    }

    /// A connection from the last request, or a new one that was compared with what was acknowledged.
    fn link(&self) -> std::result::Result<Link, Trouble> {
        let idle = lock(&self.idle).pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    pub(crate) fn put_back(&self, link: Link) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX && self.check().is_ok() {
            idle.push(link);
        }
    }

    /// What an answer comes to.
    pub(crate) fn judge(&self, answer: Answer) -> std::result::Result<Vec<Value>, Trouble> {
        let Answer { status, rest } = answer;
        let text = |at: usize| rest.get(at).map(answer::shown).unwrap_or_default();
        Err(Trouble::Fatal(match status.as_str() {
            script::DONE => return Ok(rest),
            script::FENCED => self.fenced(&text(0)),
            script::SEQUENCE => self.lost(format!("its last write is number {} of its lane", text(0))),
            "type" => {
                StorageError::damaged(&self.place, format!("{} is a {}, expected a {}", text(0), text(1), text(2)))
            }
            "state" => StorageError::damaged(
                &self.place,
                format!("{} of {} is \"{}\", expected \"{}\"", text(1), text(0), text(2), text(3)),
            ),
            status => self.malformed(&format!("the status \"{status}\"")),
        }))
    }

    /// The fence is at another epoch: a later one is another process's, an earlier one was there before this store was opened.
    fn fenced(&self, found: &str) -> StorageError {
        if found.is_empty() {
            return self.lost("nothing is left of the namespace".into());
        }
        let number = |epoch: &str| epoch.parse::<u64>().unwrap_or(0);
        let own = self.epoch().unwrap_or_default();
        if number(found) < number(&own) {
            return self.lost(format!("it is at opening {found} of this store, this is opening {own}"));
        }
        StorageError::Stopped(format!("another process has opened {}", self.place))
    }

    /// The server holds less than it acknowledged.
    pub(crate) fn lost(&self, what: String) -> StorageError {
        StorageError::Lost { place: self.place.clone(), what }
    }

    pub(crate) fn malformed(&self, what: &str) -> StorageError {
        StorageError::damaged(&self.place, format!("an answer that no script gives: {what}"))
    }
}
