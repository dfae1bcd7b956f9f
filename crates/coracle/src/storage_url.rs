//! Where a node keeps its data, as text.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a node keeps its data: `memory:` or `sled:./directory`.
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
}

/// Why a text is not a storage URL: names the part that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{url}\" is not a storage URL: {reason}; expected memory: or sled:./directory")]
pub struct StorageUrlError {
    /// The text.
    pub url: String,
    /// What is wrong with which part.
    pub reason: String,
}

impl StorageUrl {
    /// The engine's name.
    pub fn engine(&self) -> &'static str {
        match self {
            StorageUrl::Memory => "memory",
            StorageUrl::Sled { .. } => "sled",
        }
    }
}

impl Default for StorageUrl {
    /// `sled:./coracle-data`.
    fn default() -> StorageUrl {
        StorageUrl::Sled { path: PathBuf::from("./coracle-data") }
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageUrl::Memory => f.write_str("memory:"),
            StorageUrl::Sled { path } => write!(f, "sled:{}", path.display()),
        }
    }
}

impl FromStr for StorageUrl {
    type Err = StorageUrlError;

    fn from_str(url: &str) -> Result<StorageUrl, StorageUrlError> {
        let wrong = |reason: String| StorageUrlError { url: url.to_owned(), reason };
        let (scheme, rest) = url.split_once(':').ok_or_else(|| wrong("it has no scheme".to_owned()))?;
        match scheme {
            "memory" if rest.is_empty() => Ok(StorageUrl::Memory),
            "memory" => Err(wrong(format!("nothing follows memory:, but \"{rest}\" does"))),
            "sled" if rest.is_empty() => Err(wrong("the directory after sled: is missing".to_owned())),
            "sled" if rest.contains(['?', '#']) => Err(wrong("the engine sled has no options".to_owned())),
            "sled" => {
                // sled:///data and sled:/data are the same directory.
                let path = rest.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(rest);
                if path.starts_with("//") {
                    return Err(wrong("a directory has no host: write sled:./directory or sled:/directory".to_owned()));
                }
                Ok(StorageUrl::Sled { path: PathBuf::from(path) })
            }
            "file" | "redis" => Err(wrong(format!("the engine {scheme} is not part of this version"))),
            scheme => Err(wrong(format!("the scheme \"{scheme}\" is unknown"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let sled = |path: &str| Ok(StorageUrl::Sled { path: path.into() });
        assert_eq!("memory:".parse(), Ok(StorageUrl::Memory));
        assert_eq!("sled:./data/n1".parse(), sled("./data/n1"));
        assert_eq!("sled:data".parse(), sled("data"));
        assert_eq!("sled:/var/lib/c".parse(), sled("/var/lib/c"));
        assert_eq!("sled:///var/lib/c".parse(), sled("/var/lib/c"));
        for url in ["memory:", "sled:./data/n1", "sled:/var/lib/c"] {
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
            ("redis://127.0.0.1:6379", "engine redis"),
            ("file:./a", "engine file"),
            ("rocks:./a", "\"rocks\""),
        ] {
            let error = url.parse::<StorageUrl>().unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
