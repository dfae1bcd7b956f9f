//! A Raft toolkit, and a replicated key-value store to embed
