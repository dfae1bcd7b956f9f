//! Every rule of founding, on machines that are wired together without any I/O.

use std::time::Duration;

use coracle_core::{GroupId, NodeRecord};

use super::*;

/// One process: its store survives a restart, its machine does not.
struct Process {
    own: Founder,
    list: Vec<String>,
    machine: Option<Founding>,
    first: Option<Bytes>,
    refusal: Option<FoundingRefusal>,
    is_up: bool,
}

struct World {
    now: Time,
    processes: Vec<Process>,
}

fn address(n: usize) -> String {
    format!("/memory/{n}")
}

fn founder(n: usize, id: u64) -> Founder {
    Founder {
        group: GroupId(1),
        id: NodeId(id),
        incarnation: Incarnation(id * 10),
        boot_nonce: id * 100,
        cluster_name: "test".to_owned(),
        addresses: vec![address(n)],
        client_address: format!("client-{n}"),
    }
}

impl World {
    /// Processes with the given ids at `/memory/0` and so on, each with everyone in its list.
    fn new(ids: &[u64]) -> World {
        let list: Vec<String> = (0..ids.len()).map(address).collect();
        let processes = ids.iter().enumerate().map(|(n, id)| Process {
            own: founder(n, *id),
            list: list.clone(),
            machine: None,
            first: None,
            refusal: None,
            is_up: false,
        });
        let mut world = World { now: Time::ZERO, processes: processes.collect() };
        (0..ids.len()).for_each(|n| world.start(n));
        world
    }

    fn start(&mut self, n: usize) {
        let process = &mut self.processes[n];
        process.is_up = true;
        process.machine = process.first.is_none().then(|| {
            let cluster = ClusterId(process.own.id.0 * 1000);
            Founding::new(process.own.clone(), process.list.clone(), cluster, self.now)
        });
    }

    fn stop(&mut self, n: usize) {
        self.processes[n].is_up = false;
        self.processes[n].machine = None;
    }

    /// Another node in the same place, with an empty store.
    fn wipe(&mut self, n: usize, id: u64) {
        let list = self.processes[n].list.clone();
        self.processes[n] =
            Process { own: founder(n, id), list, machine: None, first: None, refusal: None, is_up: false };
        self.start(n);
    }

    fn ask(&mut self, to: &str, question: &Question) -> Option<Answer> {
        let process = self.processes.iter_mut().find(|p| p.is_up && p.own.addresses.iter().any(|a| a == to))?;
        let state = match (&process.first, &mut process.machine) {
            (Some(first), _) => AnswerState::Founded { first: first.clone() },
            (None, Some(machine)) => {
                machine.asked_by(question);
                AnswerState::Unfounded { peers: machine.peers() }
            }
            (None, None) => AnswerState::Unfounded { peers: Vec::new() },
        };
        let answer = process.own.answer(question, state);
        Some(Answer::decode(&answer.encode()).unwrap())
    }

    /// One process does what it can at this moment.
    fn turn(&mut self, n: usize) {
        for _ in 0..100 {
            let now = self.now;
            let Some(machine) = &mut self.processes[n].machine else { return };
            match machine.poll(now) {
                Step::Ask { address, question } => {
                    let Inquiry::Founding(question) = Inquiry::decode(&Inquiry::Founding(question).encode()).unwrap()
                    else {
                        panic!("it is a question of founding")
                    };
                    let answer = self.ask(&address, &question);
                    let machine = self.processes[n].machine.as_mut().unwrap();
                    match answer {
                        Some(answer) => machine.answered(&address, answer, now),
                        None => machine.unanswered(&address, "down".to_owned(), now),
                    }
                }
                Step::Found(membership) => self.founded(n, membership.encode()),
                Step::Copy { first, .. } => self.founded(n, first),
                Step::Refuse(refusal) => {
                    self.stop(n);
                    self.processes[n].refusal = Some(refusal);
                }
                Step::Wait { .. } => return,
            }
        }
        panic!("process {n} never waits");
    }

    fn founded(&mut self, n: usize, first: Bytes) {
        self.processes[n].first = Some(first);
        self.processes[n].machine = None;
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while self.now < end {
            (0..self.processes.len()).for_each(|n| self.turn(n));
            self.now = self.now.plus(Duration::from_millis(50));
        }
    }

    fn firsts(&self) -> Vec<Option<Bytes>> {
        self.processes.iter().map(|process| process.first.clone()).collect()
    }
}

const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn c02_the_lowest_id_founds_and_everyone_has_the_same_bytes() {
    let mut world = World::new(&[30, 10, 20]);
    world.run(A_WHILE);
    let firsts = world.firsts();
    let first = firsts[0].clone().expect("founded");
    assert!(firsts.iter().all(|other| other.as_ref() == Some(&first)), "{firsts:?}");
    let membership = Membership::decode(first).unwrap();
    assert_eq!(membership.cluster, ClusterId(10_000), "the node of the lowest id drew the cluster's id");
    assert_eq!(membership.voters().collect::<Vec<_>>(), [NodeId(10), NodeId(20), NodeId(30)]);
    assert_eq!(membership.node(NodeId(30)).unwrap().client_address, "client-0");
}

#[test]
fn c02_a_node_without_peers_founds_alone() {
    let mut world = World::new(&[7]);
    world.processes[0].list.clear();
    world.start(0);
    world.run(Duration::from_millis(50));
    assert!(world.processes[0].first.is_some());
}

#[test]
fn c02_only_the_lowest_id_makes_the_entry() {
    let mut world = World::new(&[30, 10, 20]);
    for _ in 0..100 {
        world.turn(0);
        world.turn(2);
        world.now = world.now.plus(Duration::from_millis(50));
    }
    assert_eq!(world.firsts(), [None, None, None]);
    world.turn(1);
    assert!(world.processes[1].first.is_some());
}

#[test]
fn h54_two_empty_nodes_do_not_found_while_the_third_is_down() {
    let mut world = World::new(&[30, 10, 20]);
    world.stop(2);
    world.run(A_WHILE);
    assert_eq!(world.firsts(), [None, None, None]);
    assert_eq!(world.processes[0].machine.as_ref().unwrap().missing(), [(address(2), "down".to_owned())]);
    world.start(2);
    world.run(A_WHILE);
    assert!(world.firsts().iter().all(Option::is_some));
}

#[test]
fn h54_an_answer_counts_no_more_once_a_later_question_stays_unanswered() {
    let mut world = World::new(&[10, 20, 30]);
    world.stop(2);
    world.run(Duration::from_secs(2));
    world.stop(1);
    world.run(Duration::from_secs(3));
    world.start(2);
    world.run(A_WHILE);
    assert_eq!(world.firsts(), [None, None, None], "never were all three there at once");
}

#[test]
fn h54_a_wiped_node_does_not_found_a_second_history() {
    let mut world = World::new(&[30, 10, 20]);
    world.run(A_WHILE);
    let first = world.firsts()[1].clone();
    for id in [5, 40] {
        world.wipe(0, id);
        world.run(A_WHILE);
        assert_eq!(world.processes[0].refusal, Some(FoundingRefusal::Wiped { member: NodeId(30) }));
        assert_eq!(world.processes[0].first, None);
    }
    assert_eq!(world.firsts()[1..], [first.clone(), first]);
}

#[test]
fn h54_the_wiped_founder_is_told_who_it_was() {
    let mut world = World::new(&[10, 20, 30]);
    world.run(A_WHILE);
    world.wipe(0, 1);
    world.stop(1);
    world.run(A_WHILE);
    let refusal = world.processes[0].refusal.clone().expect("refused by the one that is up");
    assert!(refusal.to_string().starts_with("the member at this address is 000000000000000a, this directory is new"));
}

#[test]
fn h54_two_wiped_nodes_cannot_found_over_the_third() {
    let mut world = World::new(&[10, 20, 30]);
    world.run(A_WHILE);
    world.stop(2);
    world.wipe(0, 1);
    world.wipe(1, 2);
    world.run(A_WHILE);
    assert_eq!(world.firsts()[..2], [None, None], "the third has not answered");
    world.start(2);
    world.run(A_WHILE);
    assert!(world.processes[..2].iter().all(|process| process.refusal.is_some()));
}

#[test]
fn c02_a_node_wiped_before_the_founding_takes_part_as_its_new_self() {
    let mut world = World::new(&[10, 20, 30]);
    world.stop(2);
    world.run(Duration::from_secs(2));
    world.wipe(1, 25);
    world.start(2);
    world.run(A_WHILE);
    let membership = Membership::decode(world.firsts()[0].clone().expect("founded")).unwrap();
    assert_eq!(membership.voters().collect::<Vec<_>>(), [NodeId(10), NodeId(25), NodeId(30)]);
}

#[test]
fn c02_a_question_of_a_new_node_invalidates_its_predecessors_answer() {
    // Also when this node knows it by a name that it does not advertise.
    for known_as in [address(1), "/dns4/b/tcp/1".to_owned()] {
        let mut machine = Founding::new(founder(0, 10), [known_as.clone()], ClusterId(1), Time::ZERO);
        let Step::Ask { question, .. } = machine.poll(Time::ZERO) else { panic!("it asks") };
        let peers = vec![address(0), address(1)];
        let answer = founder(1, 20).answer(&question, AnswerState::Unfounded { peers });
        machine.answered(&known_as, answer, Time::ZERO);
        let successor = founder(1, 21);
        machine.asked_by(&Question {
            group: GroupId(1),
            at: address(0),
            id: successor.id,
            incarnation: successor.incarnation,
            cluster_name: successor.cluster_name,
            addresses: successor.addresses,
        });
        assert!(matches!(machine.poll(Time::ZERO), Step::Wait { .. }));
        assert_eq!(machine.missing().len(), 1);
    }
}

#[test]
fn c02_an_answer_to_an_earlier_life_does_not_count() {
    let mut machine = Founding::new(founder(0, 10), [address(1)], ClusterId(1), Time::ZERO);
    let Step::Ask { mut question, .. } = machine.poll(Time::ZERO) else { panic!("it asks") };
    question.incarnation = Incarnation(99);
    let answer = founder(1, 20).answer(&question, AnswerState::Unfounded { peers: vec![address(0), address(1)] });
    machine.answered(&address(1), answer, Time::ZERO);
    assert!(matches!(machine.poll(Time::ZERO), Step::Wait { until: Some(_) }));
}

#[test]
fn c02_a_restart_in_the_middle_changes_nothing() {
    // The founder has its entry and dies before anyone copies it.
    let mut world = World::new(&[10, 20, 30]);
    world.turn(1);
    world.turn(2);
    world.turn(0);
    assert!(world.processes[0].first.is_some());
    world.stop(0);
    world.run(A_WHILE);
    assert_eq!(world.firsts()[1..], [None, None]);
    world.stop(1);
    world.start(1);
    world.start(0);
    world.run(A_WHILE);
    assert!(world.firsts().iter().all(|first| first == &world.firsts()[0]));
}

#[test]
fn c02_whoever_is_founded_can_be_copied_from() {
    let mut world = World::new(&[10, 20, 30]);
    world.turn(1);
    world.turn(0);
    world.now = world.now.plus(Duration::from_secs(1));
    world.turn(1);
    assert!(world.processes[1].first.is_some(), "the second copied from the first");
    world.stop(0);
    world.run(A_WHILE);
    assert_eq!(world.processes[2].first, world.processes[1].first);
}

#[test]
fn c02_lists_are_sets_and_may_leave_out_oneself() {
    let mut world = World::new(&[10, 20, 30]);
    world.processes[0].list = vec![address(2), address(1)];
    world.processes[1].list = vec![address(2), address(0), address(1)];
    (0..3).for_each(|n| world.start(n));
    world.run(A_WHILE);
    assert!(world.firsts().iter().all(Option::is_some));
}

#[test]
fn c02_a_node_may_be_listed_by_any_of_its_names() {
    let mut world = World::new(&[10, 20]);
    world.processes[0].own.addresses.push("/dns4/a/tcp/1".to_owned());
    world.processes[1].list = vec!["/dns4/a/tcp/1".to_owned()];
    (0..2).for_each(|n| world.start(n));
    world.run(A_WHILE);
    assert!(world.firsts().iter().all(Option::is_some));
}

#[test]
fn c02_lists_that_disagree_are_refused_by_name() {
    let mut world = World::new(&[10, 20, 30]);
    world.processes[1].list = vec![address(0), address(1)];
    (0..3).for_each(|n| world.start(n));
    world.run(Duration::from_secs(2));
    assert!(world.processes.iter().all(|process| process.refusal.is_none()), "a while is given to correct it");
    world.run(A_WHILE);
    assert_eq!(world.firsts(), [None, None, None]);
    let Some(FoundingRefusal::ListsDisagree { address: at, theirs, .. }) = &world.processes[0].refusal else {
        panic!("refused: {:?}", world.processes[0].refusal)
    };
    assert_eq!((at, theirs.as_str()), (&address(1), "/memory/0, /memory/1"));
}

#[test]
fn c02_a_list_corrected_in_time_founds() {
    let mut world = World::new(&[10, 20, 30]);
    world.processes[1].list = vec![address(0), address(1)];
    (0..3).for_each(|n| world.start(n));
    world.run(Duration::from_secs(2));
    world.processes[1].list.push(address(2));
    world.start(1);
    world.run(A_WHILE);
    assert!(world.firsts().iter().all(Option::is_some));
}

#[test]
fn c02_another_clusters_name_is_refused() {
    let mut world = World::new(&[10, 20]);
    world.processes[1].own.cluster_name = "other".to_owned();
    (0..2).for_each(|n| world.start(n));
    world.run(A_WHILE);
    assert!(matches!(world.processes[0].refusal, Some(FoundingRefusal::ClusterName { .. })));
    assert_eq!(world.firsts(), [None, None]);
}

#[test]
fn c02_a_cluster_founded_without_this_node_has_to_be_joined() {
    let mut world = World::new(&[10, 20, 30]);
    world.stop(2);
    for n in 0..2 {
        world.processes[n].list = vec![address(0), address(1)];
        world.start(n);
    }
    world.run(A_WHILE);
    world.start(2);
    world.run(A_WHILE);
    assert!(matches!(world.processes[2].refusal, Some(FoundingRefusal::NotMember { .. })));
}

#[test]
fn c02_who_joined_later_says_less_than_who_founded() {
    let peers = [address(1), address(2)];
    let mut machine = Founding::new(founder(0, 10), peers, ClusterId(1), Time::ZERO);
    let mut asked = Vec::new();
    while let Step::Ask { address, question } = machine.poll(Time::ZERO) {
        asked.push((address, question));
    }
    let [(one, question), (two, _)] = &asked[..] else { panic!("both are asked") };
    let joined = founder(1, 20).answer(question, AnswerState::Joined { cluster: ClusterId(7) });
    let mut refused = machine.clone();
    refused.answered(one, joined.clone(), Time::ZERO);
    let not_member = FoundingRefusal::NotMember { address: one.clone(), cluster: ClusterId(7) };
    assert_eq!(refused.poll(Time::ZERO), Step::Refuse(not_member));
    // A founder that lost its entry before it was durable finds it again.
    let first = Membership::new(ClusterId(7), vec![founder(0, 10).record(coracle_core::MemberRole::Voter)]).encode();
    machine.answered(one, joined, Time::ZERO);
    machine.answered(two, founder(2, 30).answer(question, AnswerState::Founded { first }), Time::ZERO);
    assert!(matches!(machine.poll(Time::ZERO), Step::Copy { .. }));
}

#[test]
fn c01_a_copied_directory_is_found_out() {
    let mut world = World::new(&[10, 20]);
    world.processes[1].own.id = NodeId(10);
    (0..2).for_each(|n| world.start(n));
    world.run(A_WHILE);
    assert!(matches!(world.processes[0].refusal, Some(FoundingRefusal::Copied { .. })));
    assert_eq!(world.firsts(), [None, None]);
}

#[test]
fn a_peer_that_does_not_answer_is_asked_less_and_less_often() {
    let mut machine = Founding::new(founder(0, 10), [address(1)], ClusterId(1), Time::ZERO);
    let mut now = Time::ZERO;
    let mut asked = 0;
    while now < Time::ZERO.plus(Duration::from_secs(10)) {
        match machine.poll(now) {
            Step::Ask { address, .. } => {
                asked += 1;
                machine.unanswered(&address, "down".to_owned(), now);
            }
            Step::Wait { until } => now = until.expect("nothing is under way"),
            step => panic!("unexpected: {step:?}"),
        }
    }
    assert!((10..=14).contains(&asked), "asked {asked} times");
}

#[test]
fn a_later_list_is_compared_with_the_membership() {
    let node = |n: usize, id| NodeRecord {
        id: NodeId(id),
        incarnation: Incarnation(1),
        addresses: vec![address(n)],
        client_address: String::new(),
        role: coracle_core::MemberRole::Voter,
        metadata: Bytes::new(),
    };
    let membership = Membership::new(ClusterId(1), vec![node(0, 10), node(1, 20)]);
    assert!(!list_differs(&[address(1)], NodeId(10), &membership));
    assert!(!list_differs(&[address(1), address(0)], NodeId(10), &membership));
    assert!(list_differs(&[address(2)], NodeId(10), &membership));
    assert!(list_differs(&[], NodeId(10), &membership));
}

#[test]
fn damaged_questions_and_answers_are_errors() {
    let question = Question {
        group: GroupId(1),
        at: address(0),
        id: NodeId(1),
        incarnation: Incarnation(2),
        cluster_name: "test".to_owned(),
        addresses: vec![address(1)],
    };
    let inquiry = Inquiry::Founding(question);
    let bytes = inquiry.encode();
    assert_eq!(Inquiry::decode(&bytes), Ok(inquiry));
    assert_eq!(Inquiry::decode(&[9, 0]), Err(WireError::Version { found: 9 }));
    for len in 0..bytes.len() {
        assert!(matches!(Inquiry::decode(&bytes[..len]), Err(WireError::Undecodable(_))), "{len} bytes");
    }
    let trailing = [&bytes[..], b"x"].concat();
    assert!(matches!(Inquiry::decode(&trailing), Err(WireError::Undecodable(_))));
    assert!(matches!(Inquiry::decode(&vec![2; (1 << 20) + 1]), Err(WireError::TooLarge { .. })));
}

#[test]
fn the_bytes_of_a_question_do_not_change() {
    let question = Question {
        group: GroupId(7),
        at: "a".to_owned(),
        id: NodeId(1),
        incarnation: Incarnation(2),
        cluster_name: "b".to_owned(),
        addresses: vec!["c".to_owned()],
    };
    let expected = [
        &[2][..],
        // What is asked, and of which group.
        &[0, 0, 0, 0],
        &[7, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, b'a'],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, b'b'],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, b'c'],
    ]
    .concat();
    assert_eq!(&Inquiry::Founding(question).encode()[..], &expected[..]);
}
