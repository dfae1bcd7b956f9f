//! `coracle demo words`: counts the words of texts with one replicated increment per word, and compares.
//!
//! It shows what the cluster promises while nodes come and go: every acknowledged increment took effect, and took effect once.

mod report;
mod watch;
mod words;
mod work;

use std::{
    collections::BTreeMap,
    process,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use coracle::client::Client;
use coracle::level::{Kv, ScanSpec};
use tokio::{task::JoinSet, time};

use self::{
    report::{Progress, Rate, Report},
    watch::Watch,
    work::{Measured, Work},
};
use crate::{
    cli::{ClusterArgs, WordsArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out, scan,
    serve::leave::watch_input,
};

/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(150);
/// How often the counts are read anew when a node fails meanwhile.
const READS_MAX: usize = 10;

pub(crate) async fn words(cluster: &ClusterArgs, args: WordsArgs) -> Outcome {
    if !args.exit_with_stdin {
        return count_and_compare(cluster, &args).await;
    }
    let closed = watch_input()?;
    tokio::select! {
        outcome = count_and_compare(cluster, &args) => outcome,
        // Nobody is left to be told: the counts stay as they are.
        _ = closed => Err(Failure::new(Code::Io, "standard input was closed before the words were counted")),
    }
}

async fn count_and_compare(cluster: &ClusterArgs, args: &WordsArgs) -> Outcome {
    let words = words::read(&args.input)?;
    if words.is_empty() {
        return Err(Failure::new(Code::Usage, "--input: there is not a single word in the texts"));
    }
    let client = connect::client(cluster)?;
    let prefix = format!("word/{}/", run_id());
    if !args.json {
        out::line(format_args!("counting {} words under the keys {prefix}…", words.len()))?;
    }
    let work = Arc::new(Work::new(prefix.clone(), words));
    let began = Instant::now();
    let measured = count(&client, cluster, args, &work).await?;
    let took = began.elapsed();
    let found = read_counts(&client, &prefix).await?;
    let report = Report::new(&work, took, measured, &found);
    report.print(args.json)?;
    if report.is_equal() { Ok(()) } else { Err(Failure::silent(Code::NotFound)) }
}

/// Tells runs apart, so that their counts do not mix.
fn run_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_micros(), process::id())
}

/// Lets all clients count, and shows how far they are.
async fn count(client: &Client, cluster: &ClusterArgs, args: &WordsArgs, work: &Arc<Work>) -> Outcome<Measured> {
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        let level = connect::level(connect::client(cluster)?, cluster.timeout().max(work::PATIENCE));
        let work = Arc::clone(work);
        clients.spawn(async move { work.client(level).await });
    }
    let watch = Watch::start(client);
    let progress = Progress::new(args.json, work.total(), cluster.endpoints.len());
    let mut rate = Rate::new();
    let mut ticks = time::interval(SHOWN_EVERY);
    let mut measured = Measured::new()?;
    let ended = loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                None => break Ok(()),
                Some(Ok(Ok(one))) => measured.add(&one),
                Some(Ok(Err(failure))) => break Err(failure),
                Some(Err(error)) => break Err(Failure::new(Code::Internal, format!("a client stopped: {error}"))),
            },
            _ = ticks.tick() => {
                progress.show(work.done(), work.total(), rate.update(work.done()), &watch.states())?;
            }
        }
    };
    progress.show(work.done(), work.total(), rate.update(work.done()), &watch.states())?;
    progress.end();
    ended.map(|()| measured)
}

/// What the cluster counted, by word; begun again when the node that answers fails.
async fn read_counts(client: &Client, prefix: &str) -> Outcome<BTreeMap<String, String>> {
    let (from, to) = scan::prefix_bounds(prefix.as_bytes());
    let spec = ScanSpec { from, to, reverse: false, limit: 1000, values: true };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut found = BTreeMap::new();
        let visited = scan::each(client as &dyn Kv, spec.clone(), None, |key, value| {
            let word = String::from_utf8_lossy(&key[prefix.len().min(key.len())..]).into_owned();
            found.insert(word, String::from_utf8_lossy(value).into_owned());
            Ok(())
        });
        match visited.await {
            Ok(()) => return Ok(found),
            Err(failure) if failure.code == Code::Unavailable && attempts < READS_MAX => {}
            Err(failure) => return Err(failure),
        }
    }
}
