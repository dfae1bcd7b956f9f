//! Lists of runs.

use alloc::{vec, vec::Vec};
use core::{
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    option, slice,
};

use crate::Run;

/// A list of runs. One run alone, as almost every list is, takes no memory of its own.
#[derive(Clone)]
pub struct Runs(List);

#[derive(Clone)]
enum List {
    One(Run),
    Some(Vec<Run>),
}

impl Runs {
    /// An empty list.
    pub const fn new() -> Runs {
        Runs(List::Some(Vec::new()))
    }

    /// Appends a run.
    pub fn push(&mut self, run: Run) {
        match &mut self.0 {
            List::Some(runs) if runs.capacity() == 0 => self.0 = List::One(run),
            List::Some(runs) => runs.push(run),
            List::One(_) => {
                let List::One(first) = core::mem::replace(&mut self.0, List::Some(Vec::with_capacity(4))) else {
                    return;
                };
                self.extend([first, run]);
            }
        }
    }
}

impl Default for Runs {
    fn default() -> Runs {
        Runs::new()
    }
}

impl Deref for Runs {
    type Target = [Run];

    fn deref(&self) -> &[Run] {
        match &self.0 {
            List::One(run) => slice::from_ref(run),
            List::Some(runs) => runs,
        }
    }
}

impl From<Run> for Runs {
    fn from(run: Run) -> Runs {
        Runs(List::One(run))
    }
}

impl From<Vec<Run>> for Runs {
    fn from(runs: Vec<Run>) -> Runs {
        Runs(List::Some(runs))
    }
}

impl Extend<Run> for Runs {
    fn extend<I: IntoIterator<Item = Run>>(&mut self, runs: I) {
        runs.into_iter().for_each(|run| self.push(run));
    }
}

impl FromIterator<Run> for Runs {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Runs {
        let mut list = Runs::new();
        list.extend(runs);
        list
    }
}

/// The runs of a list, one after the other.
pub struct IntoRuns(Rest);

enum Rest {
    One(option::IntoIter<Run>),
    Some(vec::IntoIter<Run>),
}

impl Iterator for IntoRuns {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        match &mut self.0 {
            Rest::One(run) => run.next(),
            Rest::Some(runs) => runs.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Rest::One(run) => run.size_hint(),
            Rest::Some(runs) => runs.size_hint(),
        }
    }
}

impl IntoIterator for Runs {
    type Item = Run;
    type IntoIter = IntoRuns;

    fn into_iter(self) -> IntoRuns {
        IntoRuns(match self.0 {
            List::One(run) => Rest::One(Some(run).into_iter()),
            List::Some(runs) => Rest::Some(runs.into_iter()),
        })
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = &'a Run;
    type IntoIter = slice::Iter<'a, Run>;

    fn into_iter(self) -> slice::Iter<'a, Run> {
        self.iter()
    }
}

impl PartialEq for Runs {
    fn eq(&self, other: &Runs) -> bool {
        **self == **other
    }
}

impl Eq for Runs {}

impl PartialEq<Vec<Run>> for Runs {
    fn eq(&self, other: &Vec<Run>) -> bool {
        **self == **other
    }
}

impl Hash for Runs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;
    use crate::{Entry, Index, Term};

    fn runs(count: u64) -> Vec<Run> {
        (1..=count).map(|index| Run::new(Index(index), Term(1), [Entry::noop()])).collect()
    }

    #[test]
    fn a_list_is_what_was_pushed_however_it_came_about() {
        let hasher = RandomState::new();
        for count in 0..7 {
            let (expected, pushed) = (runs(count), runs(count).into_iter().collect::<Runs>());
            assert_eq!(pushed, expected);
            assert_eq!(pushed, Runs::from(expected.clone()));
            assert_eq!(hasher.hash_one(&pushed), hasher.hash_one(Runs::from(expected.clone())));
            assert_eq!(alloc::format!("{pushed:?}"), alloc::format!("{expected:?}"));
            assert_eq!(pushed.clone().into_iter().size_hint(), (expected.len(), Some(expected.len())));
            assert_eq!(pushed.into_iter().collect::<Vec<_>>(), expected);
        }
        assert_ne!(Runs::from(runs(1)), runs(2).into_iter().skip(1).collect::<Runs>());
    }
}
