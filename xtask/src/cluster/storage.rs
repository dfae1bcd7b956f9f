//! Where the nodes keep their data.

use std::{path::Path, str::FromStr};

use super::redis::Servers;

/// As `coracle serve --storage` takes it, but for all nodes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// In a directory, durable against a power loss; in the demo's own folder unless another one is named.
    Directory { engine: &'static str, place: Option<String> },
    /// Nothing outlives the process.
    Memory,
    /// On a Redis server for each node, started with the cluster.
    Redis,
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Storage, String> {
        let (engine, place) = text.split_once(':').unwrap_or((text, ""));
        let place = Some(place).filter(|place| !place.is_empty());
        let directory = |engine| Ok(Storage::Directory { engine, place: place.map(str::to_owned) });
        match engine {
            "file" => directory("file"),
            "sled" => directory("sled"),
            "memory" if place.is_none() => Ok(Storage::Memory),
            "redis" if place.is_none() => Ok(Storage::Redis),
            _ => Err("expected file, file:DIRECTORY, sled, sled:DIRECTORY, memory or redis".to_owned()),
        }
    }
}

impl Storage {
    /// Whether nodes of a former run may have left data there that nobody said is to be used.
    pub(super) fn holds_data(&self) -> bool {
        matches!(self, Storage::Directory { place: Some(place), .. } if Path::new(place).join("n1").exists())
    }

    /// The URL for one node.
    pub(super) fn of_node(&self, number: usize, folder: &Path, servers: &Servers) -> String {
        let own = format!("n{number}");
        match self {
            Storage::Directory { engine, place } => {
                let folder = place.as_ref().map_or(folder, |place| Path::new(place));
                format!("{engine}:{}", folder.join(own).display())
            }
            Storage::Memory => "memory:".to_owned(),
            Storage::Redis => format!("redis+unix://{}?namespace={own}", servers.socket(number).display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_a_url_of_which_each_node_has_its_part() {
        let none = Servers::none();
        let of_second =
            |text: &str| text.parse::<Storage>().map(|storage| storage.of_node(2, Path::new("here"), &none));
        assert_eq!(of_second("file"), Ok("file:here/n2".to_owned()));
        assert_eq!(of_second("sled:"), Ok("sled:here/n2".to_owned()));
        assert_eq!(of_second("sled"), Ok("sled:here/n2".to_owned()));
        assert_eq!(of_second("file:./there"), Ok("file:./there/n2".to_owned()));
        assert_eq!(of_second("memory"), Ok("memory:".to_owned()));
        assert!(of_second("redis").is_ok_and(|url| url.starts_with("redis+unix:///") && url.ends_with("namespace=n2")));
        assert!(of_second("memory:x").is_err() && of_second("rocks:").is_err() && of_second("redis:x").is_err());
    }
}
