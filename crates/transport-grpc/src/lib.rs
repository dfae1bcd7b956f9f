//! A transport over gRPC.
