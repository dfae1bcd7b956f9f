//! What a server's settings promise.

use std::{collections::HashMap, fmt};

use coracle_storage::Durability;

/// The settings that are read at start and after each reconnect.
pub(crate) const NAMES: [&str; 6] =
    ["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy", "save"];

/// The settings of a server, as far as it tells them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Settings(HashMap<String, String>);

impl Settings {
    /// Takes the answers to `CONFIG GET`; what a server refuses to tell is unknown.
    pub(crate) fn new(told: impl IntoIterator<Item = (String, String)>) -> Settings {
        Settings(told.into_iter().collect())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// What an acknowledged write survives. What is unknown counts as weaker.
    pub(crate) fn durability(&self) -> Durability {
        if !self.is("appendonly", "yes") {
            return Durability::Volatile;
        }
        let is_synced = self.is("appendfsync", "always") && self.is("no-appendfsync-on-rewrite", "no");
        if is_synced { Durability::PowerLoss } else { Durability::ProcessCrash }
    }

    /// The policy by which the server throws keys away when its memory is full, if it may.
    pub(crate) fn eviction(&self) -> Option<&str> {
        let is_limited = self.0.get("maxmemory").is_some_and(|max| max != "0");
        let policy = self.0.get("maxmemory-policy")?;
        (is_limited && policy != "noeviction").then_some(policy)
    }

    /// Whether the server may throw keys away for all that it tells.
    pub(crate) fn is_eviction_unknown(&self) -> bool {
        let is_unlimited = self.0.get("maxmemory").is_some_and(|max| max == "0");
        let is_never = self.is("maxmemory-policy", "noeviction");
        !is_unlimited && !is_never && self.eviction().is_none()
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in NAMES.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            match self.0.get(*name) {
                Some(value) => write!(f, "{separator}{name} \"{value}\"")?,
                None => write!(f, "{separator}{name} unknown")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(told: &[(&str, &str)]) -> Settings {
        Settings::new(told.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn only_a_sync_before_each_answer_survives_a_power_loss() {
        let on = ("appendonly", "yes");
        let rewrite = ("no-appendfsync-on-rewrite", "no");
        for (told, expected) in [
            (vec![on, ("appendfsync", "always"), rewrite], Durability::PowerLoss),
            (vec![on, ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "yes")], Durability::ProcessCrash),
            (vec![on, ("appendfsync", "always")], Durability::ProcessCrash),
            (vec![on, ("appendfsync", "everysec"), rewrite], Durability::ProcessCrash),
            (vec![on], Durability::ProcessCrash),
            (vec![("appendonly", "no"), ("save", "3600 1")], Durability::Volatile),
            (vec![], Durability::Volatile),
        ] {
            assert_eq!(settings(&told).durability(), expected, "{told:?}");
        }
    }

    #[test]
    fn a_policy_counts_only_with_a_limit() {
        for (max, policy, expected) in [
            ("0", "allkeys-lru", None),
            ("100mb", "noeviction", None),
            ("104857600", "allkeys-lru", Some("allkeys-lru")),
            ("104857600", "volatile-ttl", Some("volatile-ttl")),
        ] {
            let settings = settings(&[("maxmemory", max), ("maxmemory-policy", policy)]);
            assert_eq!(settings.eviction(), expected, "{max} {policy}");
        }
        assert_eq!(Settings::default().eviction(), None);
    }

    #[test]
    fn what_is_not_told_of_the_policy_is_unknown() {
        for (told, expected) in [
            (&[][..], true),
            (&[("maxmemory", "0")], false),
            (&[("maxmemory", "100")], true),
            (&[("maxmemory-policy", "noeviction")], false),
            (&[("maxmemory-policy", "allkeys-lru")], true),
            (&[("maxmemory", "100"), ("maxmemory-policy", "allkeys-lru")], false),
        ] {
            assert_eq!(settings(told).is_eviction_unknown(), expected, "{told:?}");
        }
    }
}
