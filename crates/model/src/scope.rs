//! How much of the world is looked at.

/// How much of the world is looked at: who there is, and how often what may happen.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The group is founded with the nodes from 1 to this one as voters.
    pub founders: u64,
    /// There are nodes from 1 to this one; who is no founder waits to join.
    pub nodes: u64,
    /// In how many terms there may be campaigns.
    pub terms: u64,
    /// How often nodes lose patience in all; `None` for any number of times.
    pub timeouts: Option<u8>,
    /// How many commands are proposed, to whoever leads or believes so.
    pub commands: u8,
    /// How many reads are asked for, of anybody.
    pub reads: u8,
    /// How often a node crashes. It is back at once: being down for longer is hearing nothing.
    pub crashes: u8,
    /// How many messages are lost.
    pub losses: u8,
    /// How many messages arrive twice.
    pub duplicates: u8,
    /// How many rounds of heartbeats leaders send, apart from those for reads.
    pub heartbeats: u8,
    /// How often a leader finds that it hears no majority, and resigns.
    pub resignations: u8,
    /// How often a leader is asked to hand over.
    pub transfers: u8,
    /// How often a node that waits is made a voter.
    pub joins: u8,
    /// How often a voter is removed, be it the leader.
    pub removals: u8,
    /// How often a node flushes its state machine and compacts its log.
    pub compactions: u8,
    /// Whether the messages of each link arrive in the order in which they were sent.
    pub is_ordered: bool,
    /// Whether a write takes time, in which other things happen and the node may crash. If not, it is durable at once.
    pub is_writing_slow: bool,
    /// Whether questions before an election are messages like others. If not, they are answered at once, and never lost.
    pub is_pre_vote_slow: bool,
    /// The longest path that is looked at, in states; `None` for all of them.
    pub depth_max: Option<usize>,
    /// What is to be reached.
    pub goals: &'static [Goal],
}

/// Something that has to be reached in a scope, lest the scope be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A leader is elected.
    Elected,
    /// A command is committed, and its proposer told so.
    Committed,
    /// There is a leader of a later term than an earlier one's.
    Deposed,
    /// Two nodes believe at the same time that they lead.
    TwoLeaders,
    /// Entries are overwritten.
    Overwritten,
    /// A read is answered.
    Read,
    /// The state of a node is replaced by a snapshot.
    Installed,
    /// A joint configuration is left, and that is committed.
    JointLeft,
}

/// Three voters, and nothing that may happen to them.
const NOTHING: Scope = Scope {
    name: "nothing",
    about: "nothing happens",
    founders: 3,
    nodes: 3,
    terms: 0,
    timeouts: None,
    commands: 0,
    reads: 0,
    crashes: 0,
    losses: 0,
    duplicates: 0,
    heartbeats: 0,
    resignations: 0,
    transfers: 0,
    joins: 0,
    removals: 0,
    compactions: 0,
    is_ordered: false,
    is_writing_slow: false,
    is_pre_vote_slow: false,
    depth_max: None,
    goals: &[],
};

impl Scope {
    /// Those that `cargo xtask model` looks at.
    pub fn all() -> Vec<Scope> {
        vec![
            Scope::elections(),
            Scope::disks(),
            Scope::overwriting(),
            Scope::terms(),
            Scope::replication(),
            Scope::reads(),
            Scope::snapshots(),
            Scope::membership(),
            Scope::everything(),
        ]
    }

    /// Votes, and what of them survives.
    pub fn elections() -> Scope {
        Scope {
            name: "elections",
            about: "votes and crashes, with writes that take time",
            terms: 2,
            crashes: 1,
            is_writing_slow: true,
            depth_max: Some(12),
            goals: &[Goal::Elected, Goal::Deposed],
            ..NOTHING
        }
    }

    /// What is durable when it is said to be.
    pub fn disks() -> Scope {
        Scope {
            name: "disks",
            about: "commands and crashes, with writes that take time",
            terms: 1,
            commands: 1,
            crashes: 1,
            is_ordered: true,
            is_writing_slow: true,
            depth_max: Some(19),
            goals: &[Goal::Elected, Goal::Committed],
            ..NOTHING
        }
    }

    /// What is acknowledged of logs that are overwritten.
    pub fn overwriting() -> Scope {
        Scope {
            name: "overwriting",
            about: "two leaders after each other, with writes that take time",
            terms: 2,
            timeouts: Some(2),
            is_ordered: true,
            is_writing_slow: true,
            goals: &[Goal::Elected, Goal::Deposed, Goal::TwoLeaders, Goal::Overwritten],
            ..NOTHING
        }
    }

    /// What leaders make of entries of earlier terms.
    pub fn terms() -> Scope {
        Scope {
            name: "terms",
            about: "three leaders after each other, and nothing but their first entries",
            terms: 3,
            timeouts: Some(3),
            is_ordered: true,
            goals: &[Goal::Elected, Goal::Deposed, Goal::TwoLeaders, Goal::Overwritten],
            ..NOTHING
        }
    }

    /// Logs that grow apart and together again.
    pub fn replication() -> Scope {
        Scope {
            name: "replication",
            about: "commands under changing leaders, with a loss",
            terms: 3,
            commands: 2,
            losses: 1,
            heartbeats: 1,
            is_ordered: true,
            depth_max: Some(12),
            goals: &[Goal::Elected, Goal::Committed, Goal::Deposed, Goal::TwoLeaders, Goal::Overwritten],
            ..NOTHING
        }
    }

    /// Reads at leaders, deposed leaders and followers.
    pub fn reads() -> Scope {
        Scope {
            name: "reads",
            about: "reads of anybody under changing leaders",
            terms: 2,
            timeouts: Some(2),
            reads: 1,
            is_ordered: true,
            goals: &[Goal::Elected, Goal::Deposed, Goal::Read],
            ..NOTHING
        }
    }

    /// Logs that are compacted, and those who need a snapshot.
    pub fn snapshots() -> Scope {
        Scope {
            name: "snapshots",
            about: "compaction and snapshots, with a crash",
            terms: 1,
            commands: 1,
            crashes: 1,
            compactions: 1,
            heartbeats: 1,
            is_ordered: true,
            goals: &[Goal::Elected, Goal::Committed, Goal::Installed],
            ..NOTHING
        }
    }

    /// From two voters to three, and back to two.
    pub fn membership() -> Scope {
        Scope {
            name: "membership",
            about: "from two voters to three and back to two, with a crash",
            founders: 2,
            nodes: 3,
            terms: 2,
            timeouts: Some(2),
            crashes: 1,
            joins: 1,
            removals: 1,
            is_ordered: true,
            goals: &[Goal::Elected, Goal::Deposed, Goal::JointLeft],
            ..NOTHING
        }
    }

    /// All of it, as far as it goes.
    pub fn everything() -> Scope {
        Scope {
            name: "everything",
            about: "three terms, three commands, two crashes, two losses, a duplicate, slow writes, no order",
            terms: 3,
            commands: 3,
            reads: 1,
            crashes: 2,
            losses: 2,
            duplicates: 1,
            heartbeats: 1,
            resignations: 1,
            transfers: 1,
            compactions: 1,
            is_writing_slow: true,
            is_pre_vote_slow: true,
            depth_max: Some(9),
            goals: &[Goal::Elected],
            ..NOTHING
        }
    }
}
