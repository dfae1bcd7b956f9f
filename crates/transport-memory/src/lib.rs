//! Coracle's network inside one process
