//! What the canonical form leaves out, and what it does not (C25).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use coracle_core::{
    AppendResult, Body, Config, Input, Membership, Message, NodeId, Output, ProposalId, Raft, ReadId, Recovered, Run,
    Time,
};

const NODE: NodeId = NodeId(1);

fn replica(seed: u64) -> Raft {
    let recovered = Recovered::founded(Membership::of_voters([NODE, NodeId(2), NodeId(3)]));
    Raft::new(Config::new(NODE, seed), recovered, Time::ZERO).unwrap()
}

/// Takes all outputs, and has all writes done at once.
fn drain(raft: &mut Raft, now: Time) -> Vec<Message> {
    let mut sent = Vec::new();
    loop {
        match raft.poll() {
            Output::Wake { .. } => return sent,
            Output::Send(message) => sent.push(message),
            Output::Persist(persist) => raft.handle(now, Input::Persisted { ticket: persist.ticket }),
            Output::Apply { entries } => {
                let applied = entries.last().unwrap().last();
                raft.handle(now, Input::Applied { applied, flushed: applied });
            }
            _ => {}
        }
    }
}

fn settled(seed: u64, now: Time) -> Raft {
    let mut raft = replica(seed);
    raft.handle(now, Input::Unreachable { peer: NODE });
    drain(&mut raft, now);
    raft
}

/// What a peer with an equal log says.
fn answer(asked: Message) -> Option<Message> {
    let body = match asked.body {
        Body::PreVote { next_term, .. } => Body::PreVoteResponse { next_term, granted: true },
        Body::RequestVote { .. } => Body::RequestVoteResponse { granted: true },
        Body::AppendEntries { prev_log_index, entries, .. } => {
            let index = entries.last().map_or(prev_log_index, Run::last);
            Body::AppendEntriesResponse { result: AppendResult::Matched { index }, needs_snapshot: false }
        }
        Body::Heartbeat { round, .. } if round > 0 => Body::HeartbeatResponse { round, promise: 0 },
        _ => return None,
    };
    Some(Message { from: asked.to, to: asked.from, term: asked.term, body })
}

/// Lets timers fire, and both peers answer, until there is nothing more to say.
fn tick(raft: &mut Raft, now: Time) {
    raft.handle(now, Input::Time);
    loop {
        let answers: Vec<Message> = drain(raft, now).into_iter().filter_map(answer).collect();
        if answers.is_empty() {
            return;
        }
        for message in answers {
            raft.handle(now, Input::Message(message));
        }
    }
}

fn at(millis: u64) -> Time {
    Time::ZERO.plus(Duration::from_millis(millis))
}

#[test]
fn c25_neither_seeds_nor_the_time_of_day_count() {
    let [mut one, mut other] = [settled(1, at(1)), settled(2, at(7))];
    assert_eq!(one.canonical(), other.canonical());
    tick(&mut one, at(5_000));
    tick(&mut other, at(90_000));
    assert!(one.is_leader() && other.is_leader());
    assert_eq!(one.canonical(), other.canonical());
}

#[test]
fn c25_how_often_something_was_done_does_not_count() {
    let mut raft = settled(1, at(0));
    tick(&mut raft, at(5_000));
    tick(&mut raft, at(5_100));
    let before = raft.clone();
    for round in 1..=10 {
        tick(&mut raft, at(5_100 + round * 100));
    }
    assert!(raft.is_leader());
    assert_eq!(before.canonical(), raft.canonical());
    raft.handle(at(6_900), Input::Unreachable { peer: NODE });
    drain(&mut raft, at(6_900));
    assert_ne!(before.canonical(), raft.canonical(), "nobody has been heard for a while");
}

#[test]
fn c25_roles_entries_and_timers_count() {
    let raft = settled(1, at(0));
    let after = |raft: &Raft, now, input| {
        let mut raft = raft.clone();
        raft.handle(now, input);
        drain(&mut raft, now);
        raft
    };
    let campaigning = after(&raft, at(5_000), Input::Time);
    assert_ne!(raft.canonical(), campaigning.canonical(), "it campaigns");
    let nothing = || Input::Unreachable { peer: NodeId(2) };
    let [early, late] = [400, 5_000].map(|millis| after(&raft, at(millis), nothing()));
    assert_eq!(raft.canonical(), early.canonical(), "its timer is armed as before");
    assert_ne!(raft.canonical(), late.canonical(), "its timer has run out");
    let mut leader = raft.clone();
    tick(&mut leader, at(5_000));
    assert_ne!(campaigning.canonical(), leader.canonical(), "it leads");
    let propose = |command: &'static str| Input::Propose { first: ProposalId(1), commands: vec![command.into()] };
    let [busy, other] = ["x", "y"].map(|command| after(&leader, at(5_000), propose(command)));
    assert_ne!(leader.canonical(), busy.canonical(), "it has a command");
    assert_ne!(busy.canonical(), other.canonical(), "it has another command");
    let mut unsettled = leader.clone();
    unsettled.handle(at(5_000), propose("x"));
    assert_ne!(busy.canonical(), unsettled.canonical(), "outputs wait");
}

#[test]
fn c25_rounds_count_only_for_reads_that_wait() {
    let mut raft = settled(1, at(0));
    tick(&mut raft, at(5_000));
    let term = raft.term();
    assert!(!raft.is_round_awaited(term, 1));
    raft.handle(at(5_000), Input::Read { first: ReadId(1), count: 1, is_lease: false });
    let sent = drain(&mut raft, at(5_000));
    let rounds = |message: &Message| match message.body {
        Body::Heartbeat { round, .. } => Some(round),
        _ => None,
    };
    let round = sent.iter().find_map(rounds).unwrap();
    assert!(raft.is_round_awaited(term, round));
    assert!(!raft.is_round_awaited(term, round - 1));
    assert!(!raft.is_round_awaited(term.next(), round));
}
