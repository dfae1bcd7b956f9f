//! The command line.

#[cfg(feature = "tls")]
mod certs;
mod operate;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    ArgMatches, Args, CommandFactory, Error, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};
use coracle::{StorageUrl, level::ReadAt, transport::Address};

#[cfg(feature = "tls")]
pub(crate) use self::certs::{CertsArgs, TlsArgs};
pub(crate) use self::operate::{JoinArgs, LeaveArgs, MembersArgs, SnapshotArgs, TransferArgs, WeakenArgs};
use crate::parse::{self, DurationRange};

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 not found, 2 usage, 65 damaged data, 69 unavailable, 70 internal, 74 I/O, 75 outcome unknown, 77 refused, 78 configuration.";

/// Coracle: a replicated key-value store on Raft.
///
/// `coracle serve` runs a node; the other commands talk to a cluster.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The command line of this process; it ends here when it is wrong.
    pub(crate) fn of_process() -> Cli {
        let matches = Cli::command().get_matches();
        Cli::of(&matches).unwrap_or_else(|error| error.exit())
    }

    fn of(matches: &ArgMatches) -> Result<Cli, Error> {
        if let Some(("serve", of_serve)) = matches.subcommand() {
            let is_given = |name: &&&str| of_serve.value_source(name) == Some(ValueSource::CommandLine);
            if let Some(name) = ["endpoints", "timeout"].iter().find(is_given) {
                let text = format!("--{name} is for the commands that talk to a cluster; `serve` runs a node of one");
                return Err(Cli::command().error(ErrorKind::ArgumentConflict, text));
            }
        }
        Cli::from_arg_matches(matches)
    }
}

/// Which cluster to talk to, and how patiently.
#[derive(Debug, Args)]
#[command(next_help_heading = "To talk to a cluster (every command but serve)")]
pub(crate) struct ClusterArgs {
    /// Client addresses of some or all nodes
    #[arg(
        long,
        global = true,
        env = "CORACLE_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        value_parser = parse::endpoint,
        default_value = "127.0.0.1:9590,127.0.0.1:9591,127.0.0.1:9592"
    )]
    pub(crate) endpoints: Vec<String>,
    /// How long an operation may take, retries included [default: 10s; to join or leave: 60s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse::duration)]
    timeout: Option<Duration>,
}

impl ClusterArgs {
    /// How long an operation may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout_or(Duration::from_secs(10))
    }

    /// The same, for operations that take longer.
    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    Serve(Box<ServeArgs>),
    /// Set a key
    Put(PutArgs),
    /// Print the value of a key
    Get(GetArgs),
    /// Remove a key
    Del(KeyArgs),
    /// Add to a decimal integer and print the sum; an absent key counts as 0
    Incr(IncrArgs),
    /// Print a range of keys and values, in order
    Scan(ScanArgs),
    /// Show what each node says of itself
    Status(StatusArgs),
    /// Show who is in the cluster, and how far each member is
    Members(MembersArgs),
    /// Take a node in, and wait until it votes
    Join(JoinArgs),
    /// Remove a member, and wait until it is gone
    Leave(LeaveArgs),
    /// Hand leadership over
    Transfer(TransferArgs),
    /// Make a node prefer for a while that others lead
    Weaken(WeakenArgs),
    /// Make a node take a snapshot and cut its log
    Snapshot(SnapshotArgs),
    /// Make a CA and certificates for nodes, for TLS between them
    #[cfg(feature = "tls")]
    Certs(CertsArgs),
    /// Show what the cluster can do
    #[command(subcommand)]
    Demo(Demo),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  A node alone:                 coracle serve /ip4/127.0.0.1/tcp/9490
  One of three that found a cluster:
                                coracle serve A --peers A,B,C
  One more, which asks A or B:  coracle serve D --join A,B
  One that waits to be asked:   coracle serve D --standby     (then: coracle join D)
  Over TLS (see: coracle certs --help):
                                coracle serve /ip4/10.0.0.1/tcp/9490/tls --tls-ca ca.pem --tls-cert 10.0.0.1.pem --tls-key 10.0.0.1.key";

#[derive(Debug, Args)]
#[command(after_help = format!("{SERVE_EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct ServeArgs {
    /// Where peers reach this node, for example /ip4/127.0.0.1/tcp/9490, or /ip4/10.0.0.1/tcp/9490/tls over TLS; several for several ways
    #[arg(required = true, value_name = "ADDRESS")]
    pub(crate) addresses: Vec<Address>,
    /// The addresses of all nodes of a new cluster; without --peers, --join and --standby the node founds one alone. Ignored once founded
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', conflicts_with_all = ["join", "standby"])]
    pub(crate) peers: Vec<Address>,
    /// Join the cluster of these nodes: they are asked one after the other until the node is taken in. Ignored once it has joined
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', conflicts_with = "standby")]
    pub(crate) join: Vec<Address>,
    /// With --join: receive the log and do not vote
    #[arg(long, requires = "join", conflicts_with_all = ["peers", "standby"])]
    pub(crate) learner: bool,
    /// Wait until `coracle join` takes the node in. Ignored once it has joined
    #[arg(long)]
    pub(crate) standby: bool,
    /// The cluster's name: nodes of another name are refused
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    pub(crate) cluster: String,
    /// Where the data is: file:DIRECTORY, sled:DIRECTORY, memory: or redis://HOST:PORT/0?namespace=NAME. Default ./coracle-data, by the engine that made it; a new one is file:
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<StorageUrl>,
    /// With a Redis server: accept that it can lose what it has acknowledged, by its settings
    #[arg(long)]
    pub(crate) allow_weaker_durability: bool,
    /// Where to listen for clients
    #[arg(long, value_name = "IP:PORT", value_parser = parse::socket, default_value = "127.0.0.1:9590")]
    pub(crate) api: SocketAddr,
    /// Where clients reach this node, if that differs from --api
    #[arg(long, value_name = "HOST:PORT", value_parser = parse::endpoint)]
    pub(crate) advertise_api: Option<String>,
    /// Where to listen for peers, if that differs from the addresses; over TLS if those are
    #[arg(long, value_name = "IP:PORT", value_parser = parse::socket)]
    pub(crate) bind: Vec<SocketAddr>,
    /// Allow plaintext beyond this machine; peers over TLS do not need it, clients' addresses do
    #[arg(long)]
    pub(crate) insecure: bool,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// How often a leader shows that it is alive
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "100ms")]
    pub(crate) heartbeat: Duration,
    /// Between which times without a leader an election is called
    #[arg(long, value_name = "MIN..MAX", value_parser = parse::duration_range, default_value = "500ms..1s")]
    pub(crate) election_timeout: DurationRange,
    /// Allow lease reads: a leader then answers reads that ask for it without asking a majority.
    ///
    /// A node promises with each heartbeat to elect nobody else for as long as the smallest election timeout.
    /// Lease reads are wrong where the clocks of two nodes drift apart by more than 10 percent, and where a machine is suspended or its process stopped for longer than that.
    /// Other reads do not depend on clocks.
    #[arg(long)]
    pub(crate) lease: bool,
    /// After how long a change of voters is called off in which a new voter is not heard of or does not come nearer, or no majority of those who would vote is up
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, default_value = "30s")]
    pub(crate) promotion_timeout: Duration,
    /// How many applied entries the log may retain before it is compacted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 100_000)]
    pub(crate) log_entries_max: u64,
    /// How many bytes the log may take before it is compacted
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 64 << 20)]
    pub(crate) log_bytes_max: u64,
    /// How many applied entries a compaction leaves for slow peers, which need a snapshot beyond them; less than --log-entries-max, of which it is a tenth by default
    #[arg(long, value_name = "N")]
    pub(crate) log_entries_kept: Option<u64>,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter like info,coracle_node=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log_level: String,
    /// How to log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Leave when standard input closes, so that no node outlives the process that started it
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key
    pub(crate) key: String,
    /// The value; - reads it from standard input, as it is
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key
    pub(crate) key: String,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) reads: ReadArgs,
    /// Print a JSON object with revisions
    #[arg(long)]
    pub(crate) json: bool,
}

/// How fresh what is printed has to be.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// How fresh: linearizable; lease (the same, if clocks drift little and nodes run with --lease); bounded:AGE (at most so old, for example bounded:500ms); stale (what some node has)
    #[arg(long, value_name = "HOW", value_parser = parse::consistency, default_value = "linearizable")]
    consistency: ReadAt,
    /// Short for --consistency stale
    #[arg(long, conflicts_with = "consistency")]
    stale: bool,
}

impl ReadArgs {
    /// Which state is read.
    pub(crate) fn at(&self) -> ReadAt {
        if self.stale { ReadAt::Stale } else { self.consistency }
    }
}

#[derive(Debug, Args)]
pub(crate) struct IncrArgs {
    /// The key
    pub(crate) key: String,
    /// What to add
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["from", "to"])]
    pub(crate) prefix: Option<String>,
    /// The first key
    #[arg(long, value_name = "KEY")]
    pub(crate) from: Option<String>,
    /// The key before which it ends
    #[arg(long, value_name = "KEY")]
    pub(crate) to: Option<String>,
    /// From the last key down
    #[arg(long)]
    pub(crate) reverse: bool,
    /// The most keys to print
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) reads: ReadArgs,
    /// Leave the values out
    #[arg(long)]
    pub(crate) keys: bool,
    /// Print a JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print a JSON array, one object per endpoint
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Demo {
    /// Count words with one replicated increment each, and compare with a count on this machine
    Words(WordsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WordsArgs {
    /// The texts; without it, a short one that comes with the program, repeated
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) input: Vec<PathBuf>,
    /// How many clients write at the same time, each in a session of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) clients: u16,
    /// Print a JSON object per line: progress several times a second, and the result
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave when standard input closes, so that the demo does not outlive the process that started it
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
}
