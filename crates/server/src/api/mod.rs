//! The interface for clients, served over gRPC.

mod cluster;
mod connections;
mod exchange;
mod kv;
mod listen;
mod metered;
mod service;
#[cfg(test)]
mod tests;
mod unary;
#[cfg(test)]
mod unary_tests;
mod waiting;

pub(crate) use cluster::{ClusterService, Operated, Operator};
pub(crate) use kv::KvService;
pub(crate) use service::{ApiLimits, serve};
pub(crate) use waiting::answer as answer_waiting;
