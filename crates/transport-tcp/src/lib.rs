//! Coracle's MessagePack transport over TCP and Unix sockets
