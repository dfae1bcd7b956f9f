//! All nodes are killed at once in the middle of a load, again and again: what was acknowledged is there, once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle::{
    client::Client,
    level::{Error, Kv, Level, Op, Txn},
};
use coracle_tests::{cluster::Cluster, node::Node, state, wait::eventually};

/// How often all nodes are killed; `CORACLE_CRASHES` says otherwise.
const CRASHES: usize = 5;
const PATIENT: usize = 3;
const HASTY: usize = 3;
const READ_KEYS: usize = 500;

/// What the clients know.
#[derive(Default)]
struct Known {
    is_over: AtomicBool,
    /// How many writes were acknowledged to anybody.
    acknowledged: AtomicUsize,
    /// What every later read has to see.
    present: Mutex<BTreeMap<String, String>>,
    /// What surely had no effect.
    absent: Mutex<Vec<String>>,
    /// For each counter, its least and its largest possible value.
    sums: Mutex<BTreeMap<String, (i64, i64)>>,
}

impl Known {
    fn put(&self, key: String, value: String) {
        self.present.lock().unwrap().insert(key, value);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    fn sum(&self, key: &str, by: (i64, i64)) {
        let mut sums = self.sums.lock().unwrap();
        let sum = sums.entry(key.to_owned()).or_default();
        *sum = (sum.0 + by.0, sum.1 + by.1);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }
}

/// Writes in a session, and tries again until there is an answer: each write takes effect exactly once.
async fn write_patiently(level: Level, name: String, known: Arc<Known>) {
    let sum = format!("sum/{name}");
    let mut count = 0;
    while known.goes_on() {
        let (key, value) = (format!("key/{name}/{count:06}"), format!("value {count} of {name}"));
        level.put(&key, &value).await.unwrap();
        known.put(key, value);
        count += 1;
        let answered = level.increment(&sum, 1).await.unwrap();
        assert_eq!(answered, count, "{sum}: an increment was lost or counted twice");
        known.sum(&sum, (1, 1));
    }
}

/// Writes without a session and never again: the outcome may stay unknown.
async fn write_hastily(client: Client, name: String, known: Arc<Known>) {
    let sum = format!("sum/{name}");
    let mut count = 0;
    while known.goes_on() {
        let (key, value) = (format!("key/{name}/{count:06}"), format!("value {count} of {name}"));
        count += 1;
        let put = Op::Put { key: Bytes::from(key.clone()), value: Bytes::from(value.clone()) };
        let increment = Op::Increment { key: Bytes::from(sum.clone()), by: 1 };
        match client.commit(Txn { ops: vec![put, increment] }, None).await {
            Ok(_) => {
                known.sum(&sum, (1, 1));
                known.put(key, value);
            }
            Err(Error::Unknown(_)) => known.sum(&sum, (0, 1)),
            // Any other error promises that nothing happened.
            Err(_) => known.absent.lock().unwrap().push(key),
        }
    }
}

/// Reads linearizably what had been acknowledged before, and compares.
async fn check(level: &Level, known: &Known) {
    let expected: Vec<(String, String)> = known.present.lock().unwrap().clone().into_iter().collect();
    for some in expected.chunks(READ_KEYS) {
        let found = level.get_many(some.iter().map(|(key, _)| key)).await.unwrap();
        for ((key, value), found) in some.iter().zip(found) {
            assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key} was acknowledged");
        }
    }
    let sums = known.sums.lock().unwrap().clone();
    for (key, (least, _)) in sums {
        let found = sum(level, &key).await;
        assert!(found >= least, "{key} is {found}, {least} increments were acknowledged");
    }
}

async fn sum(level: &Level, key: &str) -> i64 {
    let found = level.get(key).await.unwrap();
    found.map_or(0, |bytes| String::from_utf8_lossy(&bytes).parse().unwrap())
}

/// The end, when nobody writes any more: everything is known exactly, or to within what was unknown.
async fn check_exactly(level: &Level, known: &Known) {
    check(level, known).await;
    let sums = known.sums.lock().unwrap().clone();
    for (key, (least, most)) in sums {
        let found = sum(level, &key).await;
        assert!((least..=most).contains(&found), "{key} is {found}, expected {least} to {most}");
        if key.contains("patient") {
            assert_eq!(least, most);
        }
    }
    let absent = known.absent.lock().unwrap().clone();
    for some in absent.chunks(READ_KEYS) {
        let found = level.get_many(some).await.unwrap();
        let effect = some.iter().zip(found).find(|(_, found)| found.is_some());
        assert_eq!(effect, None, "a write that was refused took effect");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_outlives_the_death_of_all_nodes() {
    let crashes =
        env::var("CORACLE_CRASHES").map_or(CRASHES, |text| text.parse().expect("CORACLE_CRASHES is a number"));
    let mut cluster = Cluster::start(&[]);
    let known = Arc::new(Known::default());
    let patient =
        (0..PATIENT).map(|n| tokio::spawn(write_patiently(cluster.level(), format!("patient-{n}"), known.clone())));
    let client = || cluster.client(Duration::from_secs(5));
    let hasty = (0..HASTY).map(|n| tokio::spawn(write_hastily(client(), format!("hasty-{n}"), known.clone())));
    let writers: Vec<_> = patient.chain(hasty).collect();
    let reader = cluster.level();
    for crash in 0..crashes {
        // Not always at the same point of the load.
        let goal = known.acknowledged.load(Ordering::SeqCst) + 40 + crash * 37 % 101;
        eventually(&format!("{goal} writes before crash {crash}"), || {
            let ended = writers.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!ended, "a writer has ended");
            let count = known.acknowledged.load(Ordering::SeqCst);
            if count >= goal { Ok(()) } else { Err(format!("{count} were acknowledged")) }
        });
        cluster.kill_all();
        if crash % 3 == 2 {
            // And once more in the middle of recovering, electing and answering those who ask again.
            cluster.nodes.iter_mut().for_each(Node::start);
            cluster.nodes[crash % 2].ready();
            cluster.kill_all();
        }
        cluster.restart_all();
        check(&reader, &known).await;
    }
    known.is_over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    check_exactly(&reader, &known).await;
    let expected: state::State = reader.prefix("").collect_all().await.unwrap().into_iter().collect();
    let nodes: Vec<Client> = (0..3).map(|node| cluster.client_at(node)).collect();
    state::agree(&nodes, &expected).await;
    let (present, absent) = (known.present.lock().unwrap().len(), known.absent.lock().unwrap().len());
    let unknown: i64 = known.sums.lock().unwrap().values().map(|(least, most)| most - least).sum();
    println!(
        "{crashes} crashes of all nodes: {present} keys acknowledged and there, {absent} refused and absent, {unknown} outcomes unknown"
    );
}
