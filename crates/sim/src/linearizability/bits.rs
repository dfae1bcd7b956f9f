//! A set of small numbers.

/// Which of the operations of a history have their place; equal sets of one history are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// No number; there is room for those below `len`.
    pub(super) fn empty(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)].into())
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.0[number / 64] & bit(number) != 0
    }

    pub(super) fn insert(&mut self, number: usize) {
        self.0[number / 64] |= bit(number);
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !bit(number);
    }
}

fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut bits = Bits::empty(130);
        for number in [0, 63, 64, 129] {
            assert!(!bits.contains(number));
            bits.insert(number);
            assert!(bits.contains(number) && !bits.contains(number ^ 1));
            bits.remove(number);
            assert_eq!(bits, Bits::empty(130));
        }
    }
}
