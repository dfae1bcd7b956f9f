//! What clients asked for and when, and what they were answered.

/// What clients asked for and when, and what they were answered.
///
/// Times are numbers of any unit, of one clock that everybody shares; where two are equal, nothing is concluded about the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<I, O> {
    /// `None` for what surely never happened.
    calls: Vec<Option<Call<I, O>>>,
}

/// An operation of a [`History`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<I, O> {
    /// What was asked.
    pub input: I,
    /// When.
    pub invoked: u64,
    /// The answer and when it came; `None` when it is not known what came of it.
    pub answer: Option<(u64, O)>,
}

/// The number of an operation, from 0 in the order of [`History::invoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub usize);

/// Something that cannot be part of a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The caller: an end of what has not begun, or has already ended.
    #[error("operation {call} ends, but is not waiting for an answer")]
    NotWaiting {
        /// Its number.
        call: usize,
    },
    /// The caller: an answer before the question.
    #[error("operation {call} is answered at {answered}: expected a time from its beginning at {invoked} on")]
    TooEarly {
        /// Its number.
        call: usize,
        /// When it began.
        invoked: u64,
        /// When it was answered.
        answered: u64,
    },
}

impl<I, O> Default for History<I, O> {
    fn default() -> History<I, O> {
        History::new()
    }
}

impl<I, O> History<I, O> {
    /// Nothing has happened.
    pub fn new() -> History<I, O> {
        History { calls: Vec::new() }
    }

    /// Somebody asks for `input` at the time `at`.
    pub fn invoke(&mut self, at: u64, input: I) -> CallId {
        self.calls.push(Some(Call { input, invoked: at, answer: None }));
        CallId(self.calls.len() - 1)
    }

    /// An operation is answered at the time `at`.
    ///
    /// # Errors
    /// When it does not wait for an answer, or began later.
    pub fn answer(&mut self, call: CallId, at: u64, output: O) -> Result<(), HistoryError> {
        let waiting = self.waiting(call)?;
        if at < waiting.invoked {
            return Err(HistoryError::TooEarly { call: call.0, invoked: waiting.invoked, answered: at });
        }
        waiting.answer = Some((at, output));
        Ok(())
    }

    /// An operation has surely not happened, and will not.
    ///
    /// # Errors
    /// When it does not wait for an answer.
    pub fn reject(&mut self, call: CallId) -> Result<(), HistoryError> {
        self.waiting(call)?;
        self.calls[call.0] = None;
        Ok(())
    }

    /// An operation that has not been rejected.
    pub fn call(&self, call: CallId) -> Option<&Call<I, O>> {
        self.calls.get(call.0)?.as_ref()
    }

    /// All operations that have not been rejected.
    pub fn calls(&self) -> impl Iterator<Item = (CallId, &Call<I, O>)> {
        self.calls.iter().enumerate().filter_map(|(id, call)| Some((CallId(id), call.as_ref()?)))
    }

    fn waiting(&mut self, call: CallId) -> Result<&mut Call<I, O>, HistoryError> {
        let waiting = self.calls.get_mut(call.0).and_then(Option::as_mut);
        waiting.filter(|waiting| waiting.answer.is_none()).ok_or(HistoryError::NotWaiting { call: call.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_ends_once_and_not_before_it_began() {
        let mut history = History::new();
        let call = history.invoke(5, "question");
        assert_eq!(history.answer(call, 4, "answer"), Err(HistoryError::TooEarly { call: 0, invoked: 5, answered: 4 }));
        assert_eq!(history.answer(call, 5, "answer"), Ok(()));
        assert_eq!(history.answer(call, 6, "answer"), Err(HistoryError::NotWaiting { call: 0 }));
        assert_eq!(history.reject(call), Err(HistoryError::NotWaiting { call: 0 }));
        assert_eq!(history.reject(CallId(9)), Err(HistoryError::NotWaiting { call: 9 }));
        let other = history.invoke(7, "question");
        assert_eq!(history.reject(other), Ok(()));
        assert_eq!(history.call(other), None);
        assert_eq!(history.calls().count(), 1);
    }
}
