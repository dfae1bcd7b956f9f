//! Things numbered one after the other, which end in any order.

use std::collections::VecDeque;

/// A queue whose places are numbered; a place that was taken out of the middle stays empty until all before it are gone.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// The number of the first place.
    first: u64,
    /// The first place is never empty.
    places: VecDeque<Option<T>>,
}

impl<T> Slots<T> {
    /// None yet; the first gets `first`.
    pub(crate) fn new(first: u64) -> Slots<T> {
        Slots { first, places: VecDeque::new() }
    }

    /// The number that the next one gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Adds one and returns its number.
    pub(crate) fn push(&mut self, value: T) -> u64 {
        let number = self.next();
        self.places.push_back(Some(value));
        number
    }

    /// Takes out the one with this number, if it is there.
    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let value = self.places.get_mut(place)?.take();
        self.drop_empty();
        value
    }

    /// The oldest one.
    pub(crate) fn front(&self) -> Option<&T> {
        self.places.front().and_then(Option::as_ref)
    }

    /// Takes out the oldest one.
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let value = self.places.pop_front()?;
        self.first += 1;
        self.drop_empty();
        value
    }

    fn drop_empty(&mut self) {
        while self.places.front().is_some_and(Option::is_none) {
            self.places.pop_front();
            self.first += 1;
        }
    }
}

/// Takes out the first one if it is as asked for.
pub(crate) fn pop_front_if<T>(queue: &mut VecDeque<T>, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(is_wanted) { queue.pop_front() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_whatever_the_order_of_taking() {
        let mut slots = Slots::new(7);
        assert_eq!((slots.push('a'), slots.push('b'), slots.push('c')), (7, 8, 9));
        assert_eq!(slots.take(8), Some('b'));
        assert_eq!(slots.take(8), None);
        assert_eq!(slots.front(), Some(&'a'));
        assert_eq!(slots.take(7), Some('a'));
        assert_eq!(slots.front(), Some(&'c'));
        assert_eq!((slots.take(6), slots.take(10), slots.take(u64::MAX)), (None, None, None));
        assert_eq!(slots.pop_front(), Some('c'));
        assert_eq!(slots.pop_front(), None);
        assert_eq!(slots.next(), 10);
    }
}
