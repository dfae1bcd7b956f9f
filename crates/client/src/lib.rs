//! A client of a Coracle cluster over gRPC
