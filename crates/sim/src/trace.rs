//! One line per transition, when somebody wants to see it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use coracle_core::Time;

/// How many lines a failure shows.
const LINES_MAX: usize = 60;

/// Where lines go: nowhere, or into a ring of the last ones and perhaps to a listener. It outlives a panic of the run.
#[derive(Clone, Default)]
pub(crate) struct Trace(Option<Arc<Mutex<Inner>>>);

struct Inner {
    lines: VecDeque<String>,
    now: Time,
    listener: Option<Listener>,
    /// Keeps nothing but faults.
    only_faults: bool,
}

/// What the line of a fault begins with.
pub(crate) const FAULT: &str = "fault ";

/// Is given each line.
pub(crate) type Listener = Box<dyn FnMut(&str) + Send>;

impl Trace {
    /// Keeps the last lines, and shows each to `listener`.
    pub(crate) fn on(listener: Option<Listener>) -> Trace {
        let inner = Inner { lines: VecDeque::new(), now: Time::ZERO, listener, only_faults: false };
        Trace(Some(Arc::new(Mutex::new(inner))))
    }

    /// Keeps a line for each fault, with what it did.
    pub(crate) fn of_faults() -> Trace {
        let inner = Inner { lines: VecDeque::new(), now: Time::ZERO, listener: None, only_faults: true };
        Trace(Some(Arc::new(Mutex::new(inner))))
    }

    /// Adds a line; `line` is not even formatted when nobody wants it.
    pub(crate) fn line(&self, now: Time, line: impl FnOnce() -> String) {
        let Some(inner) = &self.0 else { return };
        let line = line();
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.only_faults {
            return inner.fault(now, &line);
        }
        inner.now = now;
        let text = format!("{now} {line}");
        if let Some(listener) = &mut inner.listener {
            listener(&text);
        }
        if inner.lines.len() == LINES_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(text);
    }

    /// The last lines, and the time of the last.
    pub(crate) fn last(&self) -> (Vec<String>, Time) {
        let Some(inner) = &self.0 else { return (Vec::new(), Time::ZERO) };
        let inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.lines.iter().cloned().collect(), inner.now)
    }
}

impl Inner {
    /// Keeps the line if it is a fault's, or the one right after it, which tells whom it struck.
    fn fault(&mut self, now: Time, line: &str) {
        if let Some(fault) = line.strip_prefix(FAULT) {
            self.lines.push_back(format!("{fault}: "));
            self.now = now;
        } else if now == self.now
            && let Some(last) = self.lines.back_mut()
            && last.ends_with(": ")
        {
            last.push_str(line);
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.0.is_some()).finish()
    }
}
