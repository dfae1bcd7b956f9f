//! `coracle serve`: runs a node and its interface for clients until it is told to leave.

mod check;
mod failure;
pub(crate) mod leave;
mod log;
mod source;
#[cfg(feature = "tls")]
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use coracle::{JoinRole, Node, NodeStatus, StoreOptions, storage::Durability, transport::Route};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time};

use self::{leave::Leave, source::NodeSource};
use crate::{
    api,
    cli::ServeArgs,
    exit::{Code, Failure, Outcome},
    out,
};

/// How long requests under way may take to come to an end when the node leaves.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: ServeArgs) -> Outcome {
    check::plaintext(&args)?;
    let log_entries_kept = check::log_entries_kept(&args)?;
    log::start(&args)?;
    let mut leave = Leave::watch(args.exit_with_stdin)?;
    let listener = TcpListener::bind(args.api).await.map_err(|error| {
        Failure::io(format_args!("could not listen for clients at {}", args.api), &error)
            .hint("Choose another address with --api; port 0 lets the system choose the port.")
    })?;
    let api = listener.local_addr().map_err(|error| Failure::io("the listener for clients", &error))?;
    let (listener, waiting) = Waiting::answer(listener, &args)?;
    let node = tokio::select! {
        node = start(&args, api, log_entries_kept) => node?,
        why = leave.asked() => {
            tracing::info!(why, "leaving before the node was part of a cluster");
            return Ok(());
        }
    };
    waiting.end().await;
    let (stop, stopped) = oneshot::channel();
    let mut serving = serve(listener, &node, stopped);
    out::line(ready(&node, api))?;
    warn_of_durability(&args, &node.status());
    let ended = until_the_end(&node, &mut leave, &mut serving).await;
    // The receiver is gone when the interface has ended already.
    let _ = stop.send(());
    if time::timeout(GRACE, async {
        if !serving.is_finished() {
            let _ = (&mut serving).await;
        }
    })
    .await
    .is_err()
    {
        tracing::warn!("some clients' requests did not come to an end in time");
        serving.abort();
    }
    failure::of_stop(&node.shutdown().await)?;
    ended
}

async fn start(args: &ServeArgs, api: SocketAddr, log_entries_kept: u64) -> Outcome<Node> {
    let mut builder = Node::builder()
        .cluster(args.cluster.clone())
        .store_options(StoreOptions::default().allow_weaker_durability(args.allow_weaker_durability))
        .client_address(advertised(args, api))
        .heartbeat_interval(args.heartbeat)
        .election_timeout(args.election_timeout.min..=args.election_timeout.max)
        .options(|options| {
            options.replica.log_entries_max = args.log_entries_max;
            options.replica.log_bytes_max = args.log_bytes_max;
            options.replica.log_entries_kept = log_entries_kept;
            options.replica.raft.promotion_timeout = args.promotion_timeout;
            if args.lease {
                options.replica.raft.lease_duration = args.election_timeout.min;
            }
        });
    if let Some(storage) = &args.storage {
        builder = builder.storage_url(storage.clone());
    }
    for address in &args.addresses {
        builder = builder.address(address);
    }
    for bind in check::binds(args)? {
        builder = builder.bind(bind);
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = tls::load(args)? {
        builder = builder.tls(tls);
    }
    if !args.peers.is_empty() {
        builder = builder.peers(&args.peers);
    } else if !args.join.is_empty() {
        let role = if args.learner { JoinRole::Learner } else { JoinRole::Voter };
        builder = builder.join(&args.join).join_role(role);
    } else if args.standby {
        tracing::info!("with --standby: a new directory waits until a cluster takes it in");
        builder = builder.standby();
    } else {
        tracing::info!(
            "without --peers, --join and --standby: a new directory is founded as a cluster of this node alone"
        );
    }
    builder.build().await.map_err(|error| failure::of_start(error, args))
}

/// Where clients reach this node: when it listens everywhere, at the host where its peers do.
fn advertised(args: &ServeArgs, api: SocketAddr) -> String {
    if let Some(advertised) = &args.advertise_api {
        return advertised.clone();
    }
    if !api.ip().is_unspecified() {
        return api.to_string();
    }
    let host = args.addresses.iter().find_map(|address| match address.route() {
        Route::Tcp { host, .. } | Route::Grpc { host, .. } => Some(host.clone()),
        _ => None,
    });
    match host {
        Some(host) if host.contains(':') => format!("[{host}]:{}", api.port()),
        Some(host) => format!("{host}:{}", api.port()),
        None => api.to_string(),
    }
}

/// Tells clients what the node waits for, as long as it is not part of a cluster.
struct Waiting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Waiting {
    /// Also returns the listener, for what comes afterwards: connections wait there meanwhile.
    fn answer(listener: TcpListener, args: &ServeArgs) -> Outcome<(TcpListener, Waiting)> {
        let why = if !args.peers.is_empty() {
            "this node founds a cluster, and waits until all nodes of its --peers have answered"
        } else if !args.join.is_empty() {
            "this node waits until one of the nodes of its --join takes it in"
        } else if args.standby {
            "this node stands by: `coracle join` takes it in"
        } else {
            "this node is starting"
        };
        let failed = |error| Failure::io("could not share the listener for clients", &error);
        let listener = listener.into_std().map_err(failed)?;
        let later = listener.try_clone().and_then(TcpListener::from_std).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            api::answer_waiting(listener, why, api::ApiLimits::default(), stopped).await;
        });
        Ok((later, Waiting { stop, task }))
    }

    async fn end(mut self) {
        // The receiver is gone when the task has ended already.
        let _ = self.stop.send(());
        if time::timeout(GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn serve(listener: TcpListener, node: &Node, stopped: oneshot::Receiver<()>) -> JoinHandle<()> {
    let source = Arc::new(NodeSource(node.clone()));
    tokio::spawn(api::serve(listener, node.kv(), source, api::ApiLimits::default(), async {
        // A sender that is dropped means the same as one that speaks.
        let _ = stopped.await;
    }))
}

/// The line that says to whoever started it that the node serves, and where.
fn ready(node: &Node, api: SocketAddr) -> String {
    let status = node.status();
    let peers: Vec<String> = node.addresses().iter().map(ToString::to_string).collect();
    format!(
        "ready node={} cluster={} peers={} api={api} storage={} durability={}",
        status.id,
        status.cluster_name,
        peers.join(","),
        status.engine,
        status.durability
    )
}

/// Says what was accepted with --allow-weaker-durability, if it is less than a power loss.
fn warn_of_durability(args: &ServeArgs, status: &NodeStatus) {
    let durability = status.durability;
    if args.allow_weaker_durability && durability < Durability::PowerLoss {
        let what = match durability {
            Durability::Volatile => "nothing, not even a crash of the server",
            _ => "the crash of a process, and not that of the machine",
        };
        tracing::warn!(storage = status.engine, %durability, "what this node acknowledges survives {what}");
    }
}

/// Waits until somebody asks the node to leave, or it stops by itself.
async fn until_the_end(node: &Node, leave: &mut Leave, serving: &mut JoinHandle<()>) -> Outcome {
    tokio::select! {
        why = leave.asked() => {
            tracing::info!(why, "leaving");
            Ok(())
        }
        reason = node.stopped() => failure::of_stop(&reason),
        ended = serving => {
            let why = match ended {
                Ok(()) => "it returned".to_owned(),
                Err(error) => error.to_string(),
            };
            Err(Failure::new(Code::Internal, format!("the interface for clients ended: {why}")))
        }
    }
}
