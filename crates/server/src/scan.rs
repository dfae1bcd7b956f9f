//! `coracle scan`: prints a range of keys and values.

use std::{ops::Bound, time::Duration};

use bytes::Bytes;
use coracle::level::{Kv, ReadAt, ScanSpec};
use serde_json::json;

use crate::{
    cli::{ClusterArgs, ScanArgs},
    connect,
    exit::Outcome,
    out, text,
};

/// How many keys to ask for at a time.
const PAGE_KEYS: u32 = 1000;
/// How long the state is held between two pages.
const HOLD: Duration = Duration::from_secs(60);

pub(crate) async fn run(cluster: &ClusterArgs, args: ScanArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let (from, to) = bounds(&args);
    let spec = ScanSpec { from, to, reverse: args.reverse, limit: PAGE_KEYS, values: !args.keys };
    let visit = |key: &[u8], value: &[u8]| print(&args, key, value);
    match args.reads.at() {
        ReadAt::Linearizable => each(&client, spec, args.limit, visit).await,
        // Weaker reads hold no state: each page is as fresh as was asked for, and may be newer than the one before.
        at => pages(&client, at, spec, args.limit, visit).await,
    }
}

fn print(args: &ScanArgs, key: &[u8], value: &[u8]) -> Outcome {
    match (args.json, args.keys) {
        (true, true) => out::line(json!({ "key": text::verbatim(key) })),
        (true, false) => out::line(json!({ "key": text::verbatim(key), "value": text::verbatim(value) })),
        (false, true) => out::line(text::readable(key)),
        (false, false) => out::line(format_args!("{}\t{}", text::readable(key), text::readable(value))),
    }
}

/// Visits a range at one revision, page by page, with at most `limit` keys.
pub(crate) async fn each(
    kv: &dyn Kv,
    spec: ScanSpec,
    limit: Option<u64>,
    visit: impl FnMut(&[u8], &[u8]) -> Outcome,
) -> Outcome {
    let revision = kv.snapshot(HOLD).await?;
    let visited = pages(kv, ReadAt::Revision(revision), spec, limit, visit).await;
    // The hold ends by itself otherwise.
    let _ = kv.release(revision).await;
    visited
}

async fn pages(
    kv: &dyn Kv,
    at: ReadAt,
    mut spec: ScanSpec,
    limit: Option<u64>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Outcome,
) -> Outcome {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        spec.limit = u32::try_from(left).unwrap_or(PAGE_KEYS).min(PAGE_KEYS);
        let page = kv.page(at, spec.clone()).await?.value;
        for (key, value) in &page.entries {
            visit(key, value)?;
        }
        left = left.saturating_sub(page.entries.len() as u64);
        match page.entries.into_iter().next_back() {
            Some((last, _)) if page.more => advance(&mut spec, last),
            _ => break,
        }
    }
    Ok(())
}

fn advance(spec: &mut ScanSpec, last: Bytes) {
    let bound = if spec.reverse { &mut spec.to } else { &mut spec.from };
    *bound = Bound::Excluded(last);
}

fn bounds(args: &ScanArgs) -> (Bound<Bytes>, Bound<Bytes>) {
    if let Some(prefix) = &args.prefix {
        return prefix_bounds(prefix.as_bytes());
    }
    let from = args.from.clone().map_or(Bound::Unbounded, |key| Bound::Included(Bytes::from(key)));
    let to = args.to.clone().map_or(Bound::Unbounded, |key| Bound::Excluded(Bytes::from(key)));
    (from, to)
}

/// The range of the keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> (Bound<Bytes>, Bound<Bytes>) {
    let from = Bound::Included(Bytes::copy_from_slice(prefix));
    // The next key after all of them: the last byte that can be raised is, and what follows it goes.
    let Some(at) = prefix.iter().rposition(|byte| *byte < u8::MAX) else { return (from, Bound::Unbounded) };
    let mut end = prefix[..=at].to_vec();
    end[at] += 1;
    (from, Bound::Excluded(Bytes::from(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_range_of_keys_that_begin_with_it() {
        let range = |prefix: &[u8]| prefix_bounds(prefix);
        let bytes = |text: &[u8]| Bytes::copy_from_slice(text);
        assert_eq!(range(b"ab"), (Bound::Included(bytes(b"ab")), Bound::Excluded(bytes(b"ac"))));
        assert_eq!(range(b"a\xff"), (Bound::Included(bytes(b"a\xff")), Bound::Excluded(bytes(b"b"))));
        assert_eq!(range(b"\xff"), (Bound::Included(bytes(b"\xff")), Bound::Unbounded));
        assert_eq!(range(b""), (Bound::Included(bytes(b"")), Bound::Unbounded));
    }
}
