//! Where the nodes keep their data.

use std::{path::Path, str::FromStr};

/// As `coracle serve --storage` takes it, but for all nodes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// An embedded database, durable against a power loss; in the demo's own folder without a directory.
    Sled(Option<String>),
    /// Nothing outlives the process.
    Memory,
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Storage, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("sled", "") => Ok(Storage::Sled(None)),
            ("sled", directory) => Ok(Storage::Sled(Some(directory.to_owned()))),
            ("memory", "") => Ok(Storage::Memory),
            _ => Err("expected sled:, sled:DIRECTORY or memory:".to_owned()),
        }
    }
}

impl Storage {
    /// Whether nodes of a former run may have left data there that nobody said is to be used.
    pub(super) fn holds_data(&self) -> bool {
        matches!(self, Storage::Sled(Some(directory)) if Path::new(directory).join("n1").exists())
    }

    /// The URL for one node.
    pub(super) fn of_node(&self, number: usize, folder: &Path) -> String {
        let own = format!("n{number}");
        match self {
            Storage::Sled(None) => format!("sled:{}", folder.join(own).display()),
            Storage::Sled(Some(directory)) => format!("sled:{}", Path::new(directory).join(own).display()),
            Storage::Memory => "memory:".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_a_url_of_which_each_node_has_its_part() {
        let of_second = |text: &str| text.parse::<Storage>().map(|storage| storage.of_node(2, Path::new("here")));
        assert_eq!(of_second("sled:"), Ok("sled:here/n2".to_owned()));
        assert_eq!(of_second("sled"), Ok("sled:here/n2".to_owned()));
        assert_eq!(of_second("sled:./there"), Ok("sled:./there/n2".to_owned()));
        assert_eq!(of_second("memory"), Ok("memory:".to_owned()));
        assert!(of_second("memory:x").is_err() && of_second("rocks:").is_err());
    }
}
