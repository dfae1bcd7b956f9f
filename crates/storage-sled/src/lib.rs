//! Coracle's embedded store on sled, durable against a power loss
