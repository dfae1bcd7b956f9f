//! The tokio shell round a Coracle replica: threads, timers, sockets, events
