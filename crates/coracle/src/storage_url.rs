//! Where a node keeps its data, as text.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use coracle_storage::{StorageError, files::identity};

/// Where nodes keep their data if nobody says where.
const DEFAULT_DIRECTORY: &str = "./coracle-data";

/// Where a node keeps its data: `file:./directory`, `sled:./directory`, `memory:`, `redis://host:port/0?namespace=n1`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageUrl {
    /// In memory: it is gone with the process.
    Memory,
    /// In an embedded sled database.
    Sled {
        /// Its directory.
        path: PathBuf,
    },
    /// The log and snapshots in plain files.
    File {
        /// Their directory.
        path: PathBuf,
        /// Where the key-value data are.
        state: StateEngine,
    },
    /// On a Redis server.
    #[cfg(feature = "redis")]
    Redis(coracle_storage_redis::RedisUrl),
}

/// Where the key-value data are whose log is in plain files: `file:./directory?state=memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StateEngine {
    /// In a sled database in the same directory: they may be larger than memory.
    #[default]
    Sled,
    /// In memory: they are rebuilt from the snapshot and the log at each start.
    Memory,
}

/// Why a text is not a storage URL: names the part that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}; expected file:./directory, sled:./directory, memory: or redis://host:port/0?namespace=NAME")]
pub struct StorageUrlError {
    /// The text, unless it may hold a password.
    pub what: String,
    /// What is wrong with which part.
    pub reason: String,
}

impl StorageUrl {
    /// The engine's name.
    pub fn engine(&self) -> &'static str {
        match self {
            StorageUrl::Memory => "memory",
            StorageUrl::Sled { .. } => "sled",
            StorageUrl::File { .. } => "file",
            #[cfg(feature = "redis")]
            StorageUrl::Redis(_) => "redis",
        }
    }

    /// Whether the data cross a network in plaintext.
    pub fn is_plaintext_beyond_this_machine(&self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            StorageUrl::Redis(url) => !url.is_tls() && !url.is_local(),
            _ => false,
        }
    }

    /// A node's directory: as the engine that made it has it, or, if nobody has, in plain files where that is compiled in.
    ///
    /// # Errors
    /// When the directory's identity cannot be read or is damaged, or an engine made it that has no directories.
    pub fn of_directory(path: impl AsRef<Path>) -> Result<StorageUrl, StorageError> {
        let path = path.as_ref().to_owned();
        let found = identity::read(&path)?.map(|identity| identity.engine);
        match found.as_deref() {
            Some("sled") => Ok(StorageUrl::Sled { path }),
            Some("file") => Ok(StorageUrl::File { path, state: StateEngine::default() }),
            Some(_) => Err(StorageError::Engine {
                place: path.display().to_string(),
                found: found.unwrap_or_default(),
                expected: "file or sled".to_owned(),
            }),
            None if cfg!(feature = "file") => Ok(StorageUrl::File { path, state: StateEngine::default() }),
            None => Ok(StorageUrl::Sled { path }),
        }
    }

    /// What is used if nobody says what: `./coracle-data`, [as it is](StorageUrl::of_directory).
    ///
    /// # Errors
    /// Those of [`StorageUrl::of_directory`].
    pub fn found_or_default() -> Result<StorageUrl, StorageError> {
        StorageUrl::of_directory(DEFAULT_DIRECTORY)
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageUrl::Memory => f.write_str("memory:"),
            StorageUrl::Sled { path } => write!(f, "sled:{}", path.display()),
            StorageUrl::File { path, state: StateEngine::Sled } => write!(f, "file:{}", path.display()),
            StorageUrl::File { path, state: StateEngine::Memory } => write!(f, "file:{}?state=memory", path.display()),
            #[cfg(feature = "redis")]
            StorageUrl::Redis(url) => url.fmt(f),
        }
    }
}

impl FromStr for StorageUrl {
    type Err = StorageUrlError;

    fn from_str(url: &str) -> Result<StorageUrl, StorageUrlError> {
        let wrong = |reason: String| StorageUrlError { what: format!("\"{url}\" is not a storage URL"), reason };
        let (scheme, rest) = url.split_once(':').ok_or_else(|| wrong("it has no scheme".to_owned()))?;
        match scheme {
            "memory" if rest.is_empty() => Ok(StorageUrl::Memory),
            "memory" => Err(wrong(format!("nothing follows memory:, but \"{rest}\" does"))),
            "sled" if rest.contains(['?', '#']) => Err(wrong("the engine sled has no options".to_owned())),
            "sled" => Ok(StorageUrl::Sled { path: directory("sled", rest).map_err(wrong)? }),
            "file" => {
                let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
                let path = directory("file", place).map_err(wrong)?;
                Ok(StorageUrl::File { path, state: state_engine(query).map_err(wrong)? })
            }
            "redis" | "rediss" | "redis+unix" => redis(url),
            scheme => Err(wrong(format!("the scheme \"{scheme}\" is unknown"))),
        }
    }
}

/// `file:///data` and `file:/data` are the same directory.
fn directory(engine: &str, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(format!("the directory after {engine}: is missing"));
    }
    let path = text.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(text);
    if path.starts_with("//") {
        return Err(format!("a directory has no host: write {engine}:./directory or {engine}:/directory"));
    }
    Ok(PathBuf::from(path))
}

fn state_engine(query: &str) -> Result<StateEngine, String> {
    match query {
        "" | "state=sled" => Ok(StateEngine::Sled),
        "state=memory" => Ok(StateEngine::Memory),
        other => Err(format!("the option \"{other}\" is unknown: there is state=sled and state=memory")),
    }
}

// What is refused here may hold a password.
#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<StorageUrl, StorageUrlError> {
    let parsed: Result<coracle_storage_redis::RedisUrl, _> = url.parse();
    let wrong = |reason: String| StorageUrlError { what: "this is no URL of a Redis server".to_owned(), reason };
    parsed.map(StorageUrl::Redis).map_err(|error| wrong(error.reason))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<StorageUrl, StorageUrlError> {
    let reason = "it needs the feature \"redis\" of the crate coracle, which this build was made without".to_owned();
    Err(StorageUrlError { what: "data on a Redis server".to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let sled = |path: &str| Ok(StorageUrl::Sled { path: path.into() });
        let file = |path: &str, state| Ok(StorageUrl::File { path: path.into(), state });
        assert_eq!("memory:".parse(), Ok(StorageUrl::Memory));
        assert_eq!("sled:./data/n1".parse(), sled("./data/n1"));
        assert_eq!("sled:data".parse(), sled("data"));
        assert_eq!("sled:/var/lib/c".parse(), sled("/var/lib/c"));
        assert_eq!("sled:///var/lib/c".parse(), sled("/var/lib/c"));
        assert_eq!("file:./data/n1".parse(), file("./data/n1", StateEngine::Sled));
        assert_eq!("file:///data?state=sled".parse(), file("/data", StateEngine::Sled));
        assert_eq!("file:/data?state=memory".parse(), file("/data", StateEngine::Memory));
        for url in ["memory:", "sled:./data/n1", "sled:/var/lib/c", "file:./a", "file:/a?state=memory"] {
            let parsed: StorageUrl = url.parse().unwrap();
            assert_eq!(parsed.to_string(), url);
        }
    }

    #[test]
    fn wrong_urls_name_the_part() {
        for (url, part) in [
            ("", "no scheme"),
            ("data", "no scheme"),
            ("memory:x", "\"x\""),
            ("sled:", "directory after sled:"),
            ("sled:./a?b=c", "no options"),
            ("sled://host/a", "no host"),
            ("file:", "directory after file:"),
            ("file:./a?state=redis", "\"state=redis\""),
            ("file://host/a", "no host"),
            ("redis://127.0.0.1:6379", "namespace"),
            ("rocks:./a", "\"rocks\""),
        ] {
            let error = url.parse::<StorageUrl>().unwrap_err().to_string();
            let is_left_out = url.starts_with("redis") && cfg!(not(feature = "redis"));
            assert!(error.contains(if is_left_out { "feature" } else { part }), "{url}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        let error = "redis://:hunter2@host".parse::<StorageUrl>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_directory_is_opened_by_the_engine_that_made_it() {
        let directory = tempfile::tempdir().unwrap();
        let engine = |path: &Path| StorageUrl::of_directory(path).map(|url| url.engine());
        assert_eq!(engine(directory.path()).unwrap(), if cfg!(feature = "file") { "file" } else { "sled" });
        let mut identity = coracle_storage::Identity {
            node: coracle_core::NodeId(1),
            incarnation: coracle_core::Incarnation(1),
            engine: "sled".to_owned(),
            cluster_name: "c".to_owned(),
            clusters: Default::default(),
        };
        identity::write(directory.path(), &identity).unwrap();
        assert_eq!(engine(directory.path()).unwrap(), "sled");
        identity.engine = "other".to_owned();
        identity::write(directory.path(), &identity).unwrap();
        assert!(matches!(engine(directory.path()), Err(StorageError::Engine { found, .. }) if found == "other"));
    }
}
