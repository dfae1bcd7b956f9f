//! Checks that every store must pass, for authors of adapters: one call each.
