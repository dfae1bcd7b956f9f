//! `cargo xtask cluster`: real processes, real disks, and a leader that dies half-way.

mod comeback;
mod demo;
mod input;
mod link;
mod node;
mod play;
mod redis;
mod state;
mod storage;
mod verdict;
mod view;

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    link::{Link, Transport},
    node::{Node, Ports, Setting, StartError},
    play::Play,
    redis::Servers,
    storage::Storage,
    view::View,
};
use crate::process::{build_binary, root};

/// A cluster to start, and what to do with it.
#[derive(Args)]
pub(crate) struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// What the nodes speak to each other
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// Over TLS, with certificates that are made for it
    #[arg(long)]
    tls: bool,
    /// Where the nodes keep their data: file or sled (under target/cluster), file:DIRECTORY or sled:DIRECTORY (with a directory in it for each node), memory, where a killed node comes back as a new one, or redis, with a server for each node that is started with it
    #[arg(long, value_name = "ENGINE", default_value = "file")]
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

/// How often free ports are drawn again when somebody else takes one in between.
const PORT_ATTEMPTS: usize = 5;
/// How long a cluster may take to have a leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.storage == Storage::Memory && options.nodes < 3 {
        bail!(
            "--storage memory needs --nodes 3 or more: the killed node comes back as a new one, and a majority must be left to take it in"
        );
    }
    if options.storage.holds_data() && !options.keep_data {
        bail!("--storage: there is data of a former run: go on with it by --keep-data, or choose another directory");
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
    let link = match options.tls {
        true => Link::over_tls(options.transport, &folder, &binary)?,
        false => Link::plain(options.transport),
    };
    // Dropped after the nodes, which need them to the end.
    let servers = match options.storage {
        Storage::Redis => Servers::start(options.nodes.into(), &folder)?,
        _ => Servers::none(),
    };
    let mut nodes = start(options, &servers, &Setting { link: &link, folder: &folder, binary: &binary })?;
    let view = View::new(stays && io::stderr().is_terminal(), &nodes);
    let leader = state::wait_for_leader(&binary, &nodes, LEADER_WAIT)?;
    view.say(&format!("node {} leads; counting words with {} clients", leader.number, options.clients));
    let play =
        Play { binary: &binary, folder: &folder, texts: &texts, clients: options.clients, storage: &options.storage };
    let ending = play.run(&mut nodes, &view)?;
    view.finish();
    verdict::print(&ending, &view);
    if stays {
        stay(&binary, &options.storage, &mut nodes, &view);
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
fn start(options: &Options, servers: &Servers, setting: &Setting<'_>) -> Result<Vec<Node>> {
    let is_free = options.uses_free_ports();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let ports = if is_free { Ports::free(options.nodes)? } else { Ports::documented(options.nodes)? };
        match start_on(&ports, &options.storage, servers, setting) {
            Ok(nodes) => return Ok(nodes),
            // Nothing was founded: that takes all nodes. What is there already stays, and other ports are drawn.
            Err(StartError::PortTaken(_)) if is_free && attempts < PORT_ATTEMPTS => {}
            Err(StartError::PortTaken(error) | StartError::Other(error)) => return Err(error),
        }
    }
}

fn start_on(
    ports: &[Ports],
    storage: &Storage,
    servers: &Servers,
    setting: &Setting<'_>,
) -> Result<Vec<Node>, StartError> {
    let peers: Vec<String> = ports.iter().map(|ports| ports.peer_address(setting.link)).collect();
    let peers = peers.join(",");
    let mut nodes = Vec::new();
    for (number, ports) in (1..).zip(ports) {
        let mut node = Node::new(number, *ports, &peers, &storage.of_node(number, setting.folder, servers), setting);
        node.start()?;
        nodes.push(node);
    }
    // All run before one is waited for: a new cluster is founded only once all of them answer.
    for node in &mut nodes {
        node.wait_until_ready()?;
        println!("node {} is ready: peers {}, clients {}", node.number, node.address, node.ports.endpoint());
    }
    Ok(nodes)
}

/// Shows the nodes until Ctrl-C, which ends this process and them with it. A node that was killed meanwhile is brought back on request.
fn stay(binary: &Path, storage: &Storage, nodes: &mut [Node], view: &View) {
    let endpoints = state::endpoints(nodes);
    let coracle = binary.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(binary).display();
    view.say("\nThe cluster stays up until Ctrl-C. Talk to it from another terminal:");
    for command in ["status", "members", "put hello world", "incr visits", "scan --prefix word/ --limit 10", "transfer"]
    {
        view.say(&format!("  {coracle} --endpoints {endpoints} {command}"));
    }
    view.say("Or kill a node, and bring it back here with the Enter key.");
    let keys = keys();
    loop {
        for node in nodes.iter_mut() {
            if let Some(status) = node.ended() {
                view.say(&format!(
                    "node {} has ended with {status}; its log is {}; Enter brings it back",
                    node.number,
                    node.log().display()
                ));
            }
        }
        if keys.try_iter().count() > 0 {
            bring_back(binary, storage, nodes, view);
        }
        if let Ok(states) = state::query(binary, nodes) {
            view.show(nodes, &states);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Says whenever the Enter key was pressed.
fn keys() -> Receiver<()> {
    let (tell, keys) = channel();
    std::thread::spawn(move || io::stdin().lines().map_while(Result::ok).try_for_each(|_| tell.send(())));
    keys
}

fn bring_back(binary: &Path, storage: &Storage, nodes: &mut [Node], view: &View) {
    let ended: Vec<usize> = (0..nodes.len()).filter(|&place| !nodes[place].is_running()).collect();
    for place in ended {
        let number = nodes[place].number;
        match comeback::restart(binary, storage, nodes, place) {
            Ok(how) => view.say(&how),
            Err(error) => view.say(&format!("node {number} does not come back: {error:#}")),
        }
    }
}
