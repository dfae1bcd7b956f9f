//! The requests that wait for their end, and the limits on them.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use crate::{ReplicaOptions, RequestId};

/// Who is still to be answered, and how much is held for requests of any origin.
#[derive(Debug)]
pub(crate) struct Clients {
    /// The clients' requests that get a reply. One that was cancelled is not in it, although it may still be on its way.
    live: HashSet<RequestId, BuildHasherDefault<IdHasher>>,
    /// Requests on their way: clients', cancelled ones, and those forwarded by peers.
    count: usize,
    /// The bytes of commands and queries that are held.
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A limit is reached.
    Full,
    /// The request's name is in use: the one that has it will be answered.
    Duplicate,
}

impl Clients {
    pub(crate) fn new(options: &ReplicaOptions) -> Clients {
        Clients {
            live: HashSet::default(),
            count: 0,
            bytes: 0,
            count_max: options.requests_max,
            bytes_max: options.request_bytes_max,
        }
    }

    /// Takes a client's request; it is ended by [`Clients::finish`].
    pub(crate) fn admit(&mut self, request: RequestId, bytes: usize) -> Result<(), Refused> {
        if self.live.contains(&request) {
            return Err(Refused::Duplicate);
        }
        self.admit_foreign(bytes)?;
        self.live.insert(request);
        Ok(())
    }

    /// Takes a peer's request; it is ended by [`Clients::finish_foreign`].
    pub(crate) fn admit_foreign(&mut self, bytes: usize) -> Result<(), Refused> {
        // A single request over the limit in bytes is let through when nothing else is held: the limit is not one on its size.
        let fits = self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max;
        if self.count >= self.count_max || !fits {
            return Err(Refused::Full);
        }
        self.count += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// The bytes are held by somebody else from here on.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A client's request has ended; says whether it is to be answered.
    pub(crate) fn finish(&mut self, request: RequestId) -> bool {
        self.finish_foreign();
        self.live.remove(&request)
    }

    /// A peer's request has ended.
    pub(crate) fn finish_foreign(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// The client does not wait any more.
    pub(crate) fn cancel(&mut self, request: RequestId) {
        self.live.remove(&request);
    }

    pub(crate) fn is_live(&self, request: RequestId) -> bool {
        self.live.contains(&request)
    }

    /// How many requests are on their way.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many bytes are held for them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A map by requests.
pub type RequestMap<T> = HashMap<RequestId, T, BuildHasherDefault<IdHasher>>;

/// Requests are named by the driver, who does not try to make them collide.
#[derive(Clone, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
