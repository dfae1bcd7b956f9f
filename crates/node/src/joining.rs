//! Being taken into a cluster, carried out: asks over the transport and waits by the clock; and the leader's part, introducing itself to members that do not answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_core::{Membership, NodeId, Status};
use coracle_replica::{Inquiry, InviteAnswer, JoinAnswer, JoinRefusal, JoinRequest, JoinRole, members};
use coracle_transport::{Address, Transport};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    FoundingMode,
    directory::{Directory, Told},
    identity::Standing,
    inbox::{Inbox, Order},
    join,
};

/// How often to say what is waited for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);
/// How long to wait before asking all again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a member may be silent before a leader introduces itself, at first and at most.
const SILENCE_MIN: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// Waits until a cluster takes this node in: its members.
///
/// # Errors
/// When the cluster refuses.
pub(crate) async fn be_taken_in(
    directory: &Arc<Directory>,
    transport: &Arc<dyn Transport>,
    mode: &FoundingMode,
    role: JoinRole,
) -> Result<Told, JoinRefusal> {
    directory.wait_to_be_taken_in();
    let asking = async {
        match mode {
            FoundingMode::Join(addresses) => {
                let mut asker = Asker::new(directory, transport, addresses, role);
                asker.ask_until_accepted().await.map(|told| directory.taken_in(told))
            }
            _ => stand_by().await,
        }
    };
    tokio::select! {
        told = directory.invitation() => Ok(told),
        told = asking => told,
    }
}

/// Says every now and then what is waited for, for ever.
async fn stand_by() -> Result<Told, JoinRefusal> {
    loop {
        tracing::info!("stands by: waiting for a cluster to take this node in");
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
}

/// Asks members of a cluster to take this node in.
struct Asker<'a> {
    directory: &'a Directory,
    transport: &'a dyn Transport,
    addresses: Vec<Address>,
    role: JoinRole,
}

/// What came of asking everybody once.
enum Round {
    Accepted(Told),
    Refused(JoinRefusal),
    /// Whom, and why not.
    Nobody(Vec<String>),
}

impl<'a> Asker<'a> {
    fn new(
        directory: &'a Directory,
        transport: &'a Arc<dyn Transport>,
        addresses: &[Address],
        role: JoinRole,
    ) -> Asker<'a> {
        Asker { directory, transport: &**transport, addresses: addresses.to_vec(), role }
    }

    async fn ask_until_accepted(&mut self) -> Result<Told, JoinRefusal> {
        let mut progress_at = Instant::now() + PROGRESS_INTERVAL;
        loop {
            match self.round().await {
                Round::Accepted(told) => {
                    tracing::info!(cluster = %told.1.cluster, "is taken in");
                    return Ok(told);
                }
                Round::Refused(refusal) => {
                    tracing::error!(%refusal, "is not taken in");
                    return Err(refusal);
                }
                Round::Nobody(reasons) => {
                    if Instant::now() >= progress_at {
                        progress_at = Instant::now() + PROGRESS_INTERVAL;
                        tracing::info!(asked = reasons.join(", "), "waiting to be taken in");
                    }
                }
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    /// Asks one after the other, and the leader that they name.
    async fn round(&self) -> Round {
        let Some(own) = self.directory.founder() else { return Round::Nobody(Vec::new()) };
        let request = JoinRequest {
            group: self.directory.group(),
            record: own.record(self.role.member_role()),
            role: self.role,
            cluster_name: own.cluster_name.clone(),
        };
        let inquiry = Inquiry::Join(request);
        let mut reasons = Vec::new();
        for address in &self.addresses {
            if own.addresses.contains(&address.to_string()) {
                continue;
            }
            let leader = match self.ask(address, &inquiry, &mut reasons).await {
                Answered::End(round) => return round,
                Answered::Leader(leader) => leader,
                Answered::Nothing => continue,
            };
            for address in leader.iter().filter_map(|text| text.parse().ok()) {
                if let Answered::End(round) = self.ask(&address, &inquiry, &mut reasons).await {
                    return round;
                }
            }
        }
        Round::Nobody(reasons)
    }

    async fn ask(&self, address: &Address, inquiry: &Inquiry, reasons: &mut Vec<String>) -> Answered {
        let reason = match join::ask(self.transport, address, inquiry).await {
            Ok(JoinAnswer::Accepted { cluster, membership, index }) => {
                return Answered::End(match members(&membership, cluster) {
                    Ok(membership) => Round::Accepted((index, membership)),
                    Err(refusal) => Round::Refused(refusal),
                });
            }
            Ok(JoinAnswer::Refused(refusal)) => return Answered::End(Round::Refused(refusal)),
            Ok(JoinAnswer::AskLeader { addresses }) => return Answered::Leader(addresses),
            Ok(JoinAnswer::NotYet { reason }) | Err(reason) => reason,
        };
        reasons.push(format!("{address} ({reason})"));
        Answered::Nothing
    }
}

enum Answered {
    End(Round),
    Leader(Vec<String>),
    Nothing,
}

/// What the tasks beside the loop work with.
#[derive(Clone)]
pub(crate) struct Beside {
    pub(crate) directory: Arc<Directory>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) inbox: Arc<Inbox>,
    /// Closed when the loop ends.
    pub(crate) status: watch::Receiver<Arc<Status>>,
}

impl Beside {
    /// Ends when the loop has ended, or `duration` has passed: then it is true.
    async fn waits(&mut self, duration: Duration) -> bool {
        let ended = async { while self.status.changed().await.is_ok() {} };
        tokio::time::timeout(duration, ended).await.is_err()
    }

    /// Goes on asking to be taken in until the node knows itself to be a member: whoever accepted may have lost its leadership.
    pub(crate) async fn pursue(mut self, given: Vec<Address>, role: JoinRole) {
        let mut complaint = None;
        while self.directory.standing() == Standing::Joining && self.waits(ASK_INTERVAL).await {
            let mut addresses = given.clone();
            let membership = self.status.borrow().membership.clone();
            addresses.extend(addresses_of(&membership).filter(|address| !given.contains(address)));
            let round = Asker::new(&self.directory, &self.transport, &addresses, role).round().await;
            match round {
                Round::Accepted(told) => self.hear(told),
                Round::Refused(refusal) if complaint.as_ref() != Some(&refusal) => {
                    tracing::warn!(%refusal, "the cluster does not take this node in");
                    complaint = Some(refusal);
                }
                _ => {}
            }
        }
    }

    fn hear(&self, told: Told) {
        if self.directory.cluster() == Some(told.1.cluster) && self.directory.tell(told) {
            self.inbox.push_order(Order::LookAtTold);
        }
    }

    /// While this node leads, it tells members that do not answer who the members are: they may know nobody yet, or only those of long ago.
    pub(crate) async fn introduce(mut self) {
        let mut silent: BTreeMap<NodeId, Silence> = BTreeMap::new();
        let mut telling: JoinSet<()> = JoinSet::new();
        while self.waits(SILENCE_MIN / 2).await {
            while telling.try_join_next().is_some() {}
            let status = self.status.borrow().clone();
            silent.retain(|id, _| status.peers.iter().any(|peer| peer.id == *id && !peer.is_active));
            for peer in status.peers.iter().filter(|peer| !peer.is_active) {
                let silence = silent.entry(peer.id).or_insert_with(Silence::new);
                if silence.is_too_long() && telling.len() < status.peers.len() {
                    let (beside, status, id) = (self.clone(), status.clone(), peer.id);
                    telling.spawn(async move { beside.introduce_to(&status, id).await });
                }
            }
        }
    }

    async fn introduce_to(&self, status: &Status, id: NodeId) {
        let Some(node) = status.membership.node(id) else { return };
        let invite = join::invite(&self.directory, status, Some((id, node.incarnation)));
        for address in node.addresses.iter().filter_map(|text| text.parse().ok()) {
            match join::ask(&*self.transport, &address, &invite).await {
                Ok(InviteAnswer::Accepted { .. }) => return,
                Ok(InviteAnswer::Refused(refusal)) => tracing::debug!(%address, %refusal, "a silent member"),
                Err(reason) => tracing::debug!(%address, reason, "a silent member"),
            }
        }
    }
}

/// How long a member has not answered.
struct Silence {
    due: Instant,
    patience: Duration,
}

impl Silence {
    fn new() -> Silence {
        Silence { due: Instant::now() + SILENCE_MIN, patience: SILENCE_MIN }
    }

    /// Whether it is time to introduce oneself; the next time it takes longer.
    fn is_too_long(&mut self) -> bool {
        let is_due = Instant::now() >= self.due;
        if is_due {
            self.patience = (self.patience * 2).min(SILENCE_MAX);
            self.due = Instant::now() + self.patience;
        }
        is_due
    }
}

fn addresses_of(membership: &Membership) -> impl Iterator<Item = Address> {
    membership.nodes.iter().flat_map(|node| &node.addresses).filter_map(|text| text.parse().ok())
}
