//! Numbers and pieces out of any bytes.

use bytes::Bytes;

/// Gives out bytes from the front; at the end, zeros and empty pieces.
pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Source<'a> {
        Source(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is at most 256.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// At most `max` bytes.
    pub(crate) fn piece(&mut self, max: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// A piece whose length comes first.
    pub(crate) fn bytes(&mut self) -> Bytes {
        let len = usize::from(self.byte());
        Bytes::copy_from_slice(self.piece(len))
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}
