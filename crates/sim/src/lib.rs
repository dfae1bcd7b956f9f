//! A deterministic simulator of Coracle clusters, with checkers
