//! One connection, and how it begins: settings, lanes, fence.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use coracle_storage::{Durability, Result, StorageError};
use redis::{Cmd, Connection, ConnectionLike, ErrorKind, RedisError, RedisResult, Value};

use crate::{
    RedisOptions, answer,
    script::{Call, Commands, Kind, Script},
    server::{CLIENT_NAME, Server},
    settings::{self, Settings},
};

/// The version of keys and scripts; a store of another one is not opened.
const FORMAT: &str = "1";

/// Why a request was not answered with what it asked for.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The connection is gone; whether the request was carried out is unknown.
    Disconnected(String),
    /// The server did not carry it out.
    Refused(String),
    /// Waiting would not help.
    Fatal(StorageError),
}

type Attempt<T> = std::result::Result<T, Trouble>;

/// A connection whose server knows the scripts.
pub(crate) struct Link {
    connection: Connection,
    place: String,
    hashes: Vec<String>,
}

impl Link {
    fn new(server: &Server) -> Attempt<Link> {
        let RedisOptions { connect_timeout, response_timeout, .. } = server.options;
        let place = server.place.clone();
        let connection = server
            .client
            .get_connection_with_timeout(connect_timeout)
            .map_err(|error| trouble(&place, "connect", &error))?;
        for set in [Connection::set_read_timeout, Connection::set_write_timeout] {
            set(&connection, Some(response_timeout)).map_err(|error| trouble(&place, "connect", &error))?;
        }
        let mut link = Link { connection, place, hashes: Vec::new() };
        link.command(redis::cmd("CLIENT").arg("SETNAME").arg(format!("{CLIENT_NAME}{}", server.token)))?;
        link.load_scripts()?;
        Ok(link)
    }

    fn load_scripts(&mut self) -> Attempt<()> {
        self.hashes.clear();
        for script in Script::ALL {
            let hash = self.command(redis::cmd("SCRIPT").arg("LOAD").arg(script.text()))?;
            self.hashes.push(answer::shown(&hash));
        }
        Ok(())
    }

    fn command(&mut self, command: &Cmd) -> Attempt<Value> {
        self.ask(command).map_err(|error| trouble(&self.place, "ask the server", &error))
    }

    fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.connection.req_command(command).and_then(Value::extract_error)
    }

    /// Calls a script. A server that forgot it has changed nothing, and is told it again.
    pub(crate) fn call(&mut self, call: &Call) -> Attempt<Value> {
        let at = call.script as usize;
        match self.ask(&call.command(&self.hashes[at])) {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                self.load_scripts()?;
                self.command(&call.command(&self.hashes[at]))
            }
            other => other.map_err(|error| trouble(&self.place, "call a script", &error)),
        }
    }

    /// The server's settings; what it refuses to tell is unknown.
    fn settings(&mut self) -> Attempt<Settings> {
        let mut told = Vec::new();
        for name in settings::NAMES {
            match self.command(redis::cmd("CONFIG").arg("GET").arg(name)) {
                Ok(Value::Array(values)) => told.extend(answer::pairs(&values).unwrap_or_default()),
                Ok(_) => {}
                Err(Trouble::Fatal(error)) => {
                    tracing::debug!(place = self.place, name, %error, "the server does not tell a setting");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(Settings::new(told))
    }

    /// What names this run of the server; empty when it is not told.
    fn run_id(&mut self) -> Attempt<String> {
        let info = match self.command(redis::cmd("INFO").arg("server")) {
            Ok(Value::BulkString(info)) => info,
            Ok(_) | Err(Trouble::Fatal(_)) => return Ok(String::new()),
            Err(other) => return Err(other),
        };
        let info = String::from_utf8_lossy(&info);
        Ok(info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned())
    }

    /// Whether the owner of that token is connected; `false` when the server does not tell.
    fn sees(&mut self, token: &str) -> Attempt<bool> {
        let clients = match self.command(redis::cmd("CLIENT").arg("LIST")) {
            Ok(Value::BulkString(clients)) => clients,
            Ok(_) | Err(Trouble::Fatal(_)) => return Ok(false),
            Err(other) => return Err(other),
        };
        let name = format!("name={CLIENT_NAME}{token}");
        Ok(String::from_utf8_lossy(&clients).split_whitespace().any(|word| word == name))
    }
}

impl Server {
    /// Connects for the first time: settings, then the fence.
    pub(crate) fn open(&self) -> Result<()> {
        let begun = Instant::now();
        self.patiently(Some(begun + self.options.open_timeout), || {
            let mut link = Link::new(self).map_err(first)?;
            self.read_settings(&mut link, None)?;
            match self.claim(&mut link) {
                // The server may not have noticed yet that a process has ended.
                Err(Trouble::Refused(why)) if why == IN_USE && begun.elapsed() > OWNER_LEAVES => {
                    return Err(Trouble::Fatal(StorageError::Locked { place: self.place.clone() }));
                }
                claimed => claimed?,
            }
            self.put_back(link);
            Ok(())
        })
    }

    /// Connects once more: the server must hold all that was acknowledged.
    pub(crate) fn connect(&self) -> Attempt<Link> {
        let mut link = Link::new(self)?;
        let promised = self.condition().durability;
        self.read_settings(&mut link, Some(promised))?;
        self.compare(&mut link)?;
        Ok(link)
    }

    fn read_settings(&self, link: &mut Link, promised: Option<Durability>) -> Attempt<()> {
        let settings = link.settings()?;
        let run_id = link.run_id()?;
        let durability = settings.durability();
        if let Some(policy) = settings.eviction() {
            let what = format!("{} may throw keys away (maxmemory-policy {policy}), expected noeviction", self.place);
            return Err(Trouble::Fatal(StorageError::Invalid(what)));
        }
        let expected = promised.unwrap_or(Durability::PowerLoss);
        if durability < expected && !self.options.allow_weaker_durability {
            return Err(Trouble::Fatal(StorageError::Invalid(format!(
                "{} survives {durability} only ({settings}), expected {expected}: set appendonly yes, appendfsync always and no-appendfsync-on-rewrite no, or allow weaker durability",
                self.place
            ))));
        }
        let is_eviction_unknown = settings.is_eviction_unknown();
        let mut condition = self.condition();
        if is_eviction_unknown && (promised.is_none() || !condition.is_eviction_unknown) {
            tracing::warn!(
                place = self.place,
                "the Redis server does not tell its maxmemory-policy: if that is not noeviction, it may throw keys away"
            );
        }
        if promised.is_some() && condition.run_id != run_id {
            tracing::info!(place = self.place, run_id, "the Redis server was started anew");
        }
        if promised.is_some_and(|promised| promised != durability) {
            tracing::warn!(place = self.place, %durability, "the Redis server's settings have changed: acknowledged writes survive another thing from here on");
        }
        condition.durability = durability;
        condition.is_eviction_unknown = is_eviction_unknown;
        condition.run_id = run_id;
        Ok(())
    }

    /// Takes the fence from an owner that is not there any more.
    fn claim(&self, link: &mut Link) -> Attempt<()> {
        let mut owner = redis::cmd("HMGET");
        owner.arg(self.owner_key()).arg(&["epoch", "token", "format", "lost"]);
        let Value::Array(owner) = link.command(&owner)? else {
            return Err(Trouble::Fatal(self.malformed("the owner is no list")));
        };
        let field = |at: usize| owner.get(at).map(answer::shown).unwrap_or_default();
        let (epoch, token, format, lost) = (field(0), field(1), field(2), field(3));
        if !format.is_empty() && format != FORMAT {
            let found = format!("a version that writes format {format}");
            let expected = format!("one of format {FORMAT}");
            return Err(Trouble::Fatal(StorageError::Engine { place: self.place.clone(), found, expected }));
        }
        if !token.is_empty() && token != self.token && link.sees(&token)? {
            return Err(Trouble::Refused(IN_USE.into()));
        }
        self.expect_whole(&lost)?;
        let keys = ["owner", "lanes", "try:hash", "try:sorted"].map(|name| self.key(name)).to_vec();
        let epoch = if epoch.is_empty() { "0".into() } else { epoch };
        let args = vec![self.token.clone().into(), epoch.into(), FORMAT.into(), lost.into()];
        let answered = link.call(&Call { script: Script::Claim, keys, args })?;
        let answer = answer::parse(answered).map_err(|what| Trouble::Fatal(self.malformed(&what)))?;
        if answer.status == crate::script::FENCED {
            return Err(Trouble::Refused("another process opens it at this moment".into()));
        }
        let rest = self.judge(answer)?;
        let epoch = rest.first().map(answer::shown).unwrap_or_default();
        let lanes = self.lanes(rest.get(1..).unwrap_or_default())?;
        self.begin(epoch, lanes);
        Ok(())
    }

    /// What an earlier process found to be lost stays lost: this one would vote and acknowledge as if it had never been there (C18).
    fn expect_whole(&self, lost: &str) -> Attempt<()> {
        if lost.is_empty() {
            return Ok(());
        }
        if !self.options.allow_weaker_durability {
            return Err(Trouble::Fatal(self.lost(format!("{lost}, as an earlier process found"))));
        }
        tracing::warn!(
            place = self.place,
            lost,
            "an earlier process found writes lost that it had acknowledged: this is accepted, since weaker durability is"
        );
        Ok(())
    }

    /// Notes on the server that it holds less than it acknowledged, if it can be reached: the process that comes next is then refused.
    pub(crate) fn note_loss(&self, error: &StorageError) {
        let (StorageError::Lost { what, .. }, Some(epoch)) = (error, self.epoch()) else { return };
        let (keys, args) = (vec![self.owner_key()], vec![epoch.into(), what.as_bytes().to_vec()]);
        let call = Call { script: Script::Lose, keys, args };
        if let Err(trouble) = Link::new(self).and_then(|mut link| link.call(&call)) {
            tracing::warn!(
                place = self.place,
                ?trouble,
                "the loss could not be noted on the server: this node must not be started on it again"
            );
        }
    }

    /// Compares what the server holds with what it acknowledged.
    fn compare(&self, link: &mut Link) -> Attempt<()> {
        // Before the server is asked: what is acknowledged meanwhile may be more.
        let expected = self.acknowledged();
        let Some(epoch) = self.epoch() else { return Ok(()) };
        let mut commands = Commands::default();
        commands.push("HGETALL", &self.lanes_key(), Kind::Hash, []);
        let call = commands.read(&self.owner_key(), &self.lanes_key(), &epoch);
        let answer = answer::parse(link.call(&call)?).map_err(|what| Trouble::Fatal(self.malformed(&what)))?;
        let rest = self.judge(answer)?;
        let Some(Value::Array(lanes)) = rest.first() else {
            return Err(Trouble::Fatal(self.malformed("the lanes are no list")));
        };
        let found = self.lanes(lanes)?;
        for (lane, number) in expected {
            let at = found.get(&lane).copied().unwrap_or(0);
            if at < number {
                let what = format!("it is at write {at} of \"{lane}\", {number} were acknowledged");
                return Err(Trouble::Fatal(self.lost(what)));
            }
        }
        Ok(())
    }

    fn lanes(&self, values: &[Value]) -> Attempt<HashMap<String, u64>> {
        let malformed = |what: String| Trouble::Fatal(self.malformed(&what));
        let pairs = answer::pairs(values).map_err(malformed)?;
        let number = |(lane, text): (String, String)| match text.parse() {
            Ok(number) => Ok((lane, number)),
            Err(_) => Err(malformed(format!("the lane \"{lane}\" is at \"{text}\""))),
        };
        pairs.into_iter().map(number).collect()
    }
}

/// Why an opening waits when the owner is connected.
const IN_USE: &str = "its owner is connected";
/// How long it waits for that.
const OWNER_LEAVES: Duration = Duration::from_secs(1);

/// At the first connection a password that is refused is the configuration's fault.
fn first(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Refused(why) if why.contains("NOAUTH") || why.contains("WRONGPASS") || why.contains("password") => {
            Trouble::Fatal(StorageError::Invalid(why))
        }
        other => other,
    }
}

/// Errors that a server answers before it has changed anything.
const NOTHING_CHANGED: [&str; 11] = [
    "OOM",
    "LOADING",
    "MISCONF",
    "BUSY",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "NOAUTH",
    "WRONGPASS",
];

/// What an error of the client library means for a request.
fn trouble(place: &str, what: &str, error: &RedisError) -> Trouble {
    let text = error.to_string();
    if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
        return Trouble::Disconnected(text);
    }
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    // Servers before 7 put the code of what a script called into the text.
    let is_among = |known: &str| code == known || detail.contains(&format!("-{known} "));
    let is_full = detail.contains("max number of clients");
    if NOTHING_CHANGED.iter().any(|known| is_among(known)) || is_full {
        return Trouble::Refused(text);
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Trouble::Refused(format!("the password is refused: {text}"));
    }
    Trouble::Fatal(StorageError::io(format!("{what} at {place}"), std::io::Error::other(text)))
}
