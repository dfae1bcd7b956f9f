//! The numbers of the protocol, each a type of its own.

use core::{fmt, time::Duration};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(transparent))]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! decimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

number! {
    /// A term: at most one leader each (Raft §5.1). The first is 1; 0 is "before any".
    Term
}
decimal!(Term);

number! {
    /// A position in the log. The first entry is at 1; 0 is "before any" (Raft §5.3).
    Index
}
decimal!(Index);

number! {
    /// Who a node is: drawn at random when its store is made, never derived from an address, never reused.
    NodeId
}
hexadecimal!(NodeId);

number! {
    /// Which life of a store a node speaks for: another incarnation of an id is a stranger to everyone.
    Incarnation
}
hexadecimal!(Incarnation);

number! {
    /// Drawn at random when a cluster is founded.
    ClusterId
}
hexadecimal!(ClusterId);

number! {
    /// One Raft group among those that a process hosts.
    GroupId
}
decimal!(GroupId);

number! {
    /// The driver's name for a proposal; proposals handed in together have consecutive ones.
    ProposalId
}
decimal!(ProposalId);

number! {
    /// The driver's name for a read; reads handed in together have consecutive ones.
    ReadId
}
decimal!(ReadId);

number! {
    /// Names a write to the log. Tickets rise by one; a ticket that is durable makes all earlier ones durable.
    Ticket
}
decimal!(Ticket);

number! {
    /// Nanoseconds on the driver's monotonic clock, from an origin that the driver chooses.
    Time
}

impl Term {
    /// The largest term taken from a peer: beyond it a frame is forged or damaged.
    pub const MAX: Term = Term(u64::MAX >> 2);

    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);
    /// The largest index taken from a peer: beyond it a frame is forged or damaged.
    pub const MAX: Index = Index(u64::MAX >> 2);

    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// The index `count` places on.
    pub fn plus(self, count: u64) -> Index {
        Index(self.0 + count)
    }
}

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// How long it is since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time and `duration`.
    pub fn plus(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The first multiple of `duration` after this time; just this time where `duration` is zero.
    pub fn next_multiple_of(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let past = self.0.checked_rem(nanos).unwrap_or(nanos);
        Time(self.0.saturating_add(nanos - past))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}
