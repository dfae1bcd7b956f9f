//! `cargo xtask cluster`: real processes, real disks, and a leader that dies half-way.

mod demo;
mod input;
mod node;
mod play;
mod state;
mod verdict;
mod view;

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::{
    node::{Node, Ports, StartError},
    play::Play,
    view::View,
};
use crate::process::{build_binary, root};

/// A cluster to start, and what to do with it.
#[derive(Args)]
pub(crate) struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Where the nodes keep their data; with `memory` the killed leader stays down
    #[arg(long, value_enum, default_value_t = Storage::Sled)]
    storage: Storage,
    /// Go on with the data of the last run (else it is deleted)
    #[arg(long, conflicts_with_all = ["smoke", "free_ports"])]
    keep_data: bool,
    /// No terminal, free ports, ends by itself; the exit code says whether the counts were equal
    #[arg(long)]
    smoke: bool,
    /// Free ports instead of 9490 (peers) and 9590 (clients) and up
    #[arg(long)]
    free_ports: bool,
    /// The texts whose words are counted; the project's own documents if there are none
    #[arg(long, num_args = 1.., value_name = "FILE")]
    input: Vec<PathBuf>,
    /// How many clients count at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
}

impl Options {
    fn uses_free_ports(&self) -> bool {
        self.smoke || self.free_ports
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Storage {
    /// An embedded database under target/cluster, durable against a power loss
    Sled,
    /// Nothing outlives the process
    Memory,
}

/// How often free ports are drawn again when somebody else takes one in between.
const PORT_ATTEMPTS: usize = 5;
/// How long a cluster may take to have a leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.storage == Storage::Memory && options.nodes < 3 {
        bail!(
            "--storage memory needs --nodes 3 or more: the killed node does not come back, and a majority must be left"
        );
    }
    if !options.uses_free_ports() {
        // Sooner than after the build.
        Ports::documented(options.nodes)?;
    }
    let folder = root().join("target/cluster");
    prepare(&folder, options.keep_data)?;
    let texts = input::texts(&options.input, &folder)?;
    println!("building the release binary");
    let binary = build_binary("coracle-server", "coracle", true)?;
    let stays = !options.smoke && io::stdout().is_terminal();
    let mut nodes = start(options, &folder, &binary)?;
    let view = View::new(stays && io::stderr().is_terminal(), &nodes);
    let leader = state::wait_for_leader(&binary, &nodes, LEADER_WAIT)?;
    view.say(&format!("node {} leads; counting words with {} clients", leader.number, options.clients));
    let restarts = options.storage != Storage::Memory;
    let play = Play { binary: &binary, folder: &folder, texts: &texts, clients: options.clients, restarts };
    let ending = play.run(&mut nodes, &view)?;
    view.finish();
    verdict::print(&ending, &view);
    if stays {
        stay(&binary, &mut nodes, &view);
    }
    // All are told before one is waited for.
    nodes.iter_mut().for_each(Node::leave);
    Ok(if ending.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A folder with nothing of the last run in it, but the data if it is to be kept.
fn prepare(folder: &Path, keep_data: bool) -> Result<()> {
    if !keep_data && folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot delete {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Starts all nodes and waits until each says that it is ready.
fn start(options: &Options, folder: &Path, binary: &Path) -> Result<Vec<Node>> {
    let is_free = options.uses_free_ports();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let ports = if is_free { Ports::free(options.nodes)? } else { Ports::documented(options.nodes)? };
        match start_on(&ports, options.storage, folder, binary) {
            Ok(nodes) => return Ok(nodes),
            Err(StartError::PortTaken(_)) if is_free && attempts < PORT_ATTEMPTS => prepare(folder, false)?,
            Err(StartError::PortTaken(error) | StartError::Other(error)) => return Err(error),
        }
    }
}

fn start_on(ports: &[Ports], storage: Storage, folder: &Path, binary: &Path) -> Result<Vec<Node>, StartError> {
    let peers: Vec<String> = ports.iter().map(Ports::peer_address).collect();
    let peers = peers.join(",");
    let mut nodes = Vec::new();
    for (number, ports) in (1..).zip(ports) {
        let url = match storage {
            Storage::Sled => format!("sled:{}", folder.join(format!("n{number}")).display()),
            Storage::Memory => "memory:".to_owned(),
        };
        let mut node = Node::new(number, *ports, &peers, &url, folder, binary);
        node.start()?;
        nodes.push(node);
    }
    // All run before one is waited for: a new cluster is founded only once all of them answer.
    for node in &mut nodes {
        node.wait_until_ready()?;
        println!(
            "node {} is ready: peers {}, clients {}",
            node.number,
            node.ports.peer_address(),
            node.ports.endpoint()
        );
    }
    Ok(nodes)
}

/// Shows the nodes until Ctrl-C, which ends this process and them with it.
fn stay(binary: &Path, nodes: &mut [Node], view: &View) {
    let endpoints = state::endpoints(nodes);
    let coracle = binary.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(binary).display();
    view.say("\nThe cluster stays up until Ctrl-C. Talk to it from another terminal:");
    for command in ["status", "put hello world", "get hello", "incr visits", "scan --prefix word/ --limit 10"] {
        view.say(&format!("  {coracle} --endpoints {endpoints} {command}"));
    }
    loop {
        for node in nodes.iter_mut() {
            if let Some(status) = node.ended() {
                view.say(&format!("node {} has ended with {status}; its log is {}", node.number, node.log().display()));
            }
        }
        if let Ok(states) = state::query(binary, nodes) {
            view.show(nodes, &states);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
