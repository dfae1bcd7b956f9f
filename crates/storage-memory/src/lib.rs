//! Coracle's store in memory: for tests, and for nodes whose data may be lost
