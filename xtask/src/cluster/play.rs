//! What happens to the cluster while words are counted.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    comeback,
    demo::{Demo, Line, Outcome, Progress},
    node::{Node, StartError},
    state::{endpoints, is_of, leader_in, query},
    storage::Storage,
    view::View,
};

/// How long the killed node stays down at least.
const DOWN_MIN: Duration = Duration::from_secs(1);
/// When it is restarted even though nobody else leads.
const DOWN_MAX: Duration = Duration::from_secs(5);
const CATCH_UP_WAIT: Duration = Duration::from_secs(60);

/// The setting.
pub(super) struct Play<'a> {
    pub(super) binary: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) texts: &'a [PathBuf],
    pub(super) clients: u16,
    pub(super) storage: &'a Storage,
}

/// How it went.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// The leader that was killed, by its number, and how many words were counted by then.
    pub(super) killed: Option<(usize, u64)>,
    /// Whether it came back as a new node, since its data was lost.
    pub(super) is_new: bool,
    /// What the node that came back has applied; `None` when none did.
    pub(super) caught_up: Option<Result<u64>>,
    /// Who led at the end, and its term.
    pub(super) last_leader: Option<(usize, u64)>,
}

impl Ending {
    /// Whether the counts were equal although a leader was killed, and it is back.
    pub(super) fn is_good(&self) -> bool {
        self.outcome.equal && self.killed.is_some() && matches!(self.caught_up, Some(Ok(_)))
    }
}

/// A node that was killed.
struct Killed {
    /// Its place among the nodes.
    place: usize,
    at: Instant,
    done: u64,
    is_restarted: bool,
}

impl Play<'_> {
    pub(super) fn run(&self, nodes: &mut [Node], view: &View) -> Result<Ending> {
        let log = self.folder.join("demo.log");
        let mut demo = Demo::start(self.binary, &endpoints(nodes), self.texts, self.clients, log)?;
        let mut killed: Option<Killed> = None;
        let outcome = loop {
            match demo.next()? {
                Line::Outcome(outcome) => break outcome,
                Line::Progress(progress) => {
                    view.count(&progress);
                    view.show(nodes, &progress.nodes);
                    match &mut killed {
                        None => killed = kill_if_half_way(nodes, &progress, view)?,
                        Some(killed) => self.restart_if_due(nodes, killed, &progress, view)?,
                    }
                }
            }
        };
        if let Some(killed) = killed.as_mut().filter(|killed| !killed.is_restarted) {
            self.restart(nodes, killed, view)?;
        }
        let restarted = killed.as_ref().filter(|killed| killed.is_restarted).map(|killed| killed.place);
        let caught_up = restarted.map(|place| self.wait_until_caught_up(nodes, place, view));
        let killed = killed.map(|killed| (nodes[killed.place].number, killed.done));
        let is_new = *self.storage == Storage::Memory;
        Ok(Ending { outcome, killed, is_new, caught_up, last_leader: self.leader(nodes) })
    }

    fn restart_if_due(&self, nodes: &mut [Node], killed: &mut Killed, now: &Progress, view: &View) -> Result<()> {
        let other_leads = leader_in(&now.nodes).is_some_and(|leader| !is_of(leader, &nodes[killed.place]));
        let down = killed.at.elapsed();
        let is_due = down >= DOWN_MIN && (other_leads || nodes.len() == 1 || down >= DOWN_MAX);
        if !killed.is_restarted && is_due {
            self.restart(nodes, killed, view)?;
        }
        Ok(())
    }

    fn restart(&self, nodes: &mut [Node], killed: &mut Killed, view: &View) -> Result<()> {
        view.say(&comeback::restart(self.binary, self.storage, nodes, killed.place)?);
        killed.is_restarted = true;
        Ok(())
    }

    /// Waits until the restarted node has applied what the others had when the counting was over, and votes.
    fn wait_until_caught_up(&self, nodes: &mut [Node], place: usize, view: &View) -> Result<u64> {
        if let Err(StartError::PortTaken(error) | StartError::Other(error)) = nodes[place].wait_until_ready() {
            return Err(error);
        }
        let start = Instant::now();
        let mut goal = 0;
        while start.elapsed() < CATCH_UP_WAIT {
            let states = query(self.binary, nodes)?;
            view.show(nodes, &states);
            if goal == 0 {
                goal = states.iter().map(|state| state.commit.max(state.applied)).max().unwrap_or_default();
            }
            let own = states.iter().find(|state| is_of(state, &nodes[place])).filter(|state| state.is_up);
            if let Some(own) = own.filter(|own| goal > 0 && own.applied >= goal && own.votes()) {
                return Ok(own.applied);
            }
            if let Some(status) = nodes[place].ended() {
                bail!("it ended with {status}; its log is {}", nodes[place].log().display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!(
            "it had not applied {goal} within {} s; its log is {}",
            CATCH_UP_WAIT.as_secs(),
            nodes[place].log().display()
        )
    }

    fn leader(&self, nodes: &[Node]) -> Option<(usize, u64)> {
        let states = query(self.binary, nodes).ok()?;
        let leader = leader_in(&states)?;
        nodes.iter().find(|node| is_of(leader, node)).map(|node| (node.number, leader.term))
    }
}

fn kill_if_half_way(nodes: &mut [Node], progress: &Progress, view: &View) -> Result<Option<Killed>> {
    if progress.done * 2 < progress.total || progress.done >= progress.total {
        return Ok(None);
    }
    // In the middle of an election nobody leads; the next progress tells.
    let Some(leader) = leader_in(&progress.nodes) else { return Ok(None) };
    let place = nodes.iter().position(|node| is_of(leader, node)).context("a stranger leads this cluster")?;
    nodes[place].kill()?;
    view.say(&format!("killed node {}, the leader, at word {}", nodes[place].number, progress.done));
    Ok(Some(Killed { place, at: Instant::now(), done: progress.done, is_restarted: false }))
}
