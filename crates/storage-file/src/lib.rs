//! A store in plain files, made for a Raft log.
