//! What a crash may leave, and what a restart makes of it (C4, C5, C6).

use std::time::Duration;

use coracle_core::{
    AppendResult, Body, Config, Entry, EntryKind, Index, Input, Membership, Message, Output, Raft, Run, Term, Time,
};

use crate::common::{Cluster, Disk, id};

fn append(prev: (u64, u64), entries: Vec<Run>) -> Body {
    let (prev_log_index, prev_log_term) = (Index(prev.0), Term(prev.1));
    Body::AppendEntries { prev_log_index, prev_log_term, leader_commit: Index(1), entries: entries.into() }
}

fn run(first: u64, term: u64, count: u64) -> Run {
    let entries: Vec<Entry> = (0..count).map(|i| Entry::command(format!("{}@{term}", first + i))).collect();
    Run::new(Index(first), Term(term), entries)
}

/// Whether what a message asserts lies on the disk (I8).
fn is_true_on(message: &Message, disk: &Disk) -> bool {
    let is_of_its_term = message.term <= disk.hard_state.term;
    let asserted = match &message.body {
        Body::RequestVoteResponse { granted: true } => {
            disk.hard_state.term > message.term || disk.hard_state.voted_for == Some(message.to)
        }
        Body::AppendEntriesResponse { result: AppendResult::Matched { index }, .. } => disk.last_index() >= *index,
        _ => true,
    };
    is_of_its_term && asserted
}

/// What is on the disk is whole: its term is that of its last entry or later, everything that was said since is on it, and a leader whose term it left behind finds no ear after a restart.
fn check_disk(cluster: &mut Cluster) {
    let disk = cluster.node(id(1)).disk.clone();
    let last_term = disk.term_at(disk.last_index()).unwrap();
    assert!(disk.hard_state.term >= last_term, "{disk:?}");
    for message in cluster.network.drain(..) {
        assert!(is_true_on(&message, &disk), "{message:?} on {disk:?}");
    }
    let mut restarted = Raft::new(Config::new(id(1), 2), disk.recovered(), Time::ZERO).unwrap();
    let term = Term(disk.hard_state.term.0 - 1);
    let stale = Message { from: id(3), to: id(1), term, body: append((1, 1), vec![]) };
    restarted.handle(Time::ZERO, Input::Message(stale));
    assert_eq!(restarted.leader(), None);
}

/// h32, I8: a write is whole and the next one waits for it, so a crash leaves no entries without the term that they came with.
#[test]
fn h32_wherever_a_crash_falls_the_term_on_disk_is_not_behind_the_entries() {
    let vote = Body::RequestVote { last_log_index: Index(9), last_log_term: Term(1), is_transfer: false };
    let inputs = [
        (2, 5, vote),
        (2, 5, append((1, 1), vec![run(2, 5, 3)])),
        (3, 7, append((2, 5), vec![run(3, 7, 1)])),
        (3, 7, append((3, 7), vec![run(4, 7, 2)])),
        (2, 9, append((1, 1), vec![run(2, 8, 1)])),
    ];
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    // A bit for each input: whether a write becomes durable after it.
    for pattern in 0..1u32 << inputs.len() {
        let mut cluster = Cluster::with_disks([]);
        let config = Config { disk_write_max: Duration::from_secs(3600), ..Config::new(id(1), 1) };
        cluster.start_with(config, Disk::founded(&membership));
        cluster.node(id(1)).is_disk_fast = false;
        for (at, (from, term, body)) in inputs.iter().enumerate() {
            let input = cluster.message(id(*from), id(1), *term, body.clone());
            cluster.handle(id(1), input);
            check_disk(&mut cluster);
            if pattern >> at & 1 == 1 {
                cluster.sync_one(id(1));
                cluster.pump(id(1));
                check_disk(&mut cluster);
            }
        }
        cluster.sync(id(1));
        check_disk(&mut cluster);
        assert_eq!(cluster.node(id(1)).disk.terms(), [8]);
    }
}

/// h56, C3: a membership that lies below what is held in memory is in force after a restart.
#[test]
fn h56_a_membership_below_the_tail_in_memory_is_in_force_after_a_restart() {
    let mut disk = Disk::founded(&Membership::of_voters([id(1)]));
    let grown = Membership::of_voters((1..=5).map(id));
    let entry = Entry { kind: EntryKind::Membership, data: grown.encode() };
    disk.runs.extend([Run::new(Index(2), Term(2), [entry]), run(3, 2, 50), run(53, 3, 1)]);
    disk.hard_state.term = Term(3);
    let mut recovered = disk.recovered();
    recovered.tail = recovered.tail.split_off(3);
    let mut raft = Raft::new(Config::new(id(1), 1), recovered, Time::ZERO).unwrap();
    assert_eq!(raft.status().membership, grown);
    raft.handle(Time::ZERO.plus(Duration::from_secs(2)), Input::Time);
    let mut asked = Vec::new();
    loop {
        match raft.poll() {
            Output::Send(Message { to, body: Body::PreVote { .. }, .. }) => asked.push(to.0),
            Output::Wake { .. } => break,
            _ => {}
        }
    }
    assert!(!raft.is_leader(), "the founding membership would have made it leader at once");
    assert_eq!(asked, [2, 3, 4, 5]);
}
