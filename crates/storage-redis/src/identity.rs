//! Who the store speaks for.

use std::sync::Arc;

use coracle_storage::{Identity, Result, StorageError};

use crate::{
    ENGINE, answer, codec,
    script::{Commands, Kind},
    server::{Lane, Server},
};

const FIELD: &str = "identity";

/// The identity in a hash of its own.
pub(crate) struct RedisIdentity {
    server: Arc<Server>,
    key: String,
    lane: Lane,
}

impl RedisIdentity {
    pub(crate) fn new(server: Arc<Server>) -> RedisIdentity {
        RedisIdentity { key: server.key("identity"), server, lane: Lane::new("identity") }
    }

    pub(crate) fn read(&self) -> Result<Option<Identity>> {
        let mut commands = Commands::default();
        commands.push("HGET", &self.key, Kind::Hash, [FIELD.into()]);
        let answered = self.server.read(commands)?.into_iter().next().unwrap_or_default();
        let Some(record) = answer::bytes(answered).map_err(|what| self.server.malformed(&what))? else {
            return Ok(None);
        };
        let identity: Identity = codec::open(FIELD, &record)
            .map_err(|what| StorageError::damaged(&self.server.place, format!("the identity: {what}")))?;
        self.check_engine(&identity)?;
        Ok(Some(identity))
    }

    /// Keeps an identity; one that is there can become founded, but nobody else's (C1).
    pub(crate) fn write(&self, identity: &Identity) -> Result<()> {
        self.check_engine(identity)?;
        if let Some(found) = self.read()?
            && (found.node, found.incarnation) != (identity.node, identity.incarnation)
        {
            return Err(StorageError::Invalid(format!(
                "{} is node {}'s, it does not become node {}'s",
                self.server.place, found.node, identity.node
            )));
        }
        let mut commands = Commands::default();
        commands.set(&self.key, FIELD, codec::seal(FIELD, identity)?);
        self.server.write(&self.lane, commands)
    }

    fn check_engine(&self, identity: &Identity) -> Result<()> {
        if identity.engine == ENGINE {
            return Ok(());
        }
        Err(StorageError::Engine {
            place: self.server.place.clone(),
            found: identity.engine.clone(),
            expected: ENGINE.into(),
        })
    }
}
