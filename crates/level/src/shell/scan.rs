//! Scans as streams, at one revision from the first entry to the last.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::{Bound, RangeBounds},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{Below, batch::copy, snapshot::Hold};
use crate::{ReadAt, Result, ScanPage, ScanSpec};

/// A lower and an upper bound.
pub(super) type KeyBounds = (Bound<Bytes>, Bound<Bytes>);

/// A scan under way: a stream of keys and values in order, all of one revision.
///
/// Set it up first, with [`reverse`](Scan::reverse), [`limit`](Scan::limit) and [`keys_only`](Scan::keys_only); then read it as a [`Stream`], by [`next`](Scan::next), or as a whole by [`collect_all`](Scan::collect_all).
/// A scan that does not fit in a page holds its revision until it ends or is dropped.
/// After an error it is over.
pub struct Scan {
    below: Arc<Below>,
    bounds: KeyBounds,
    reverse: bool,
    values: bool,
    at: ReadAt,
    /// How many entries are still wanted.
    left: u64,
    /// What keeps the revision, once it is needed.
    hold: Option<Arc<Hold>>,
    ready: VecDeque<(Bytes, Bytes)>,
    fetching: Option<Fetch>,
    over: bool,
}

/// A page on its way.
type Fetch = Pin<Box<dyn Future<Output = Result<Fetched>> + Send>>;

struct Fetched {
    page: ScanPage,
    hold: Option<Arc<Hold>>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("bounds", &self.bounds).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Scan {
    pub(super) fn newest(below: Arc<Below>, bounds: KeyBounds) -> Scan {
        Scan {
            below,
            bounds,
            reverse: false,
            values: true,
            at: ReadAt::Linearizable,
            left: u64::MAX,
            hold: None,
            ready: VecDeque::new(),
            fetching: None,
            over: false,
        }
    }

    pub(super) fn held(hold: Arc<Hold>, bounds: KeyBounds) -> Scan {
        let scan = Scan::newest(hold.below.clone(), bounds);
        Scan { hold: Some(hold), ..scan }
    }

    /// From the upper bound down.
    #[must_use]
    pub fn reverse(self) -> Scan {
        Scan { reverse: true, ..self }
    }

    /// At most `limit` entries.
    #[must_use]
    pub fn limit(self, limit: u64) -> Scan {
        Scan { left: limit, ..self }
    }

    /// Without values: they come empty, and are not sent.
    #[must_use]
    pub fn keys_only(self) -> Scan {
        Scan { values: false, ..self }
    }

    /// The next entry; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<(Bytes, Bytes)>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// All entries.
    ///
    /// # Errors
    /// The first that a page ends with.
    pub async fn collect_all(mut self) -> Result<Vec<(Bytes, Bytes)>> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }

    /// Asks for the next page.
    fn fetch(&self) -> Fetch {
        let page_len = u64::from(self.below.options.page_len.max(1));
        let spec = ScanSpec {
            from: self.bounds.0.clone(),
            to: self.bounds.1.clone(),
            reverse: self.reverse,
            limit: u32::try_from(self.left.min(page_len)).unwrap_or(u32::MAX),
            values: self.values,
        };
        let (below, hold, at, left) = (self.below.clone(), self.hold.clone(), self.at, self.left);
        Box::pin(async move {
            if let Some(hold) = hold {
                let page = below.page(ReadAt::Revision(hold.revision), spec).await?;
                return Ok(Fetched { page, hold: Some(hold) });
            }
            // Most scans are one page, which needs no hold. If this one is not, it begins again at a revision that is held.
            let page = below.page(at, spec.clone()).await?;
            if !page.more || page.entries.len() as u64 >= left {
                return Ok(Fetched { page, hold: None });
            }
            let hold = Arc::new(Hold::take(below.clone()).await?);
            let page = below.page(ReadAt::Revision(hold.revision), spec).await?;
            Ok(Fetched { page, hold: Some(hold) })
        })
    }

    fn take(&mut self, fetched: Fetched) {
        let Fetched { mut page, hold } = fetched;
        page.entries.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= page.entries.len() as u64;
        match page.entries.last() {
            Some((last, _)) if page.more && self.left > 0 => {
                let after = Bound::Excluded(last.clone());
                if self.reverse {
                    self.bounds.1 = after;
                } else {
                    self.bounds.0 = after;
                }
                self.hold = hold;
            }
            _ => self.end(),
        }
        self.ready = page.entries.into();
    }

    /// No more pages: the revision is not needed any longer.
    fn end(&mut self) {
        self.over = true;
        self.hold = None;
    }
}

impl Stream for Scan {
    type Item = Result<(Bytes, Bytes)>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(entry) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            if this.over || this.left == 0 {
                this.end();
                return Poll::Ready(None);
            }
            if this.fetching.is_none() {
                this.fetching = Some(this.fetch());
            }
            let Some(fetching) = &mut this.fetching else { continue };
            let fetched = ready!(fetching.as_mut().poll(context));
            this.fetching = None;
            match fetched {
                Ok(fetched) => this.take(fetched),
                Err(error) => {
                    this.end();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// The bounds of a range, as bytes of our own.
pub(super) fn range_bounds<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> KeyBounds {
    (range.start_bound().map(copy), range.end_bound().map(copy))
}

/// The bounds of all keys that begin with `prefix`.
pub(super) fn prefix_range(prefix: &[u8]) -> KeyBounds {
    // The first key that sorts after all of them: the last byte that can be raised is.
    let end = prefix.iter().rposition(|&byte| byte < 255).map(|at| {
        let mut end = prefix[..=at].to_vec();
        end[at] += 1;
        Bytes::from(end)
    });
    (Bound::Included(copy(prefix)), end.map_or(Bound::Unbounded, Bound::Excluded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_range() {
        let excluded = |bytes: &[u8]| Bound::Excluded(copy(bytes));
        assert_eq!(prefix_range(b"ab"), (Bound::Included(copy(b"ab")), excluded(b"ac")));
        assert_eq!(prefix_range(b"a\xff\xff"), (Bound::Included(copy(b"a\xff\xff")), excluded(b"b")));
        assert_eq!(prefix_range(b"\xff"), (Bound::Included(copy(b"\xff")), Bound::Unbounded));
        assert_eq!(prefix_range(b""), (Bound::Included(Bytes::new()), Bound::Unbounded));
    }
}
