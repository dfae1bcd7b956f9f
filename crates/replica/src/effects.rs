//! Effects by the order in which they leave (C10).

use std::collections::VecDeque;

use coracle_core::{Body, Message, NodeId, Term};

use crate::Effect;

/// What waits to be polled.
#[derive(Debug)]
pub(crate) struct Effects {
    /// Who sends.
    id: NodeId,
    /// Sends that need no disk: they leave before what the core has to say.
    pub(crate) early: VecDeque<Effect>,
    /// Results, reads, what to apply, events: they leave after the core's sends and writes.
    pub(crate) late: VecDeque<Effect>,
}

impl Effects {
    pub(crate) fn new(id: NodeId) -> Effects {
        Effects { id, early: VecDeque::new(), late: VecDeque::new() }
    }

    pub(crate) fn send_early(&mut self, to: NodeId, term: Term, body: Body) {
        self.early.push_back(Effect::Send(Message { from: self.id, to, term, body }));
    }

    pub(crate) fn send_late(&mut self, to: NodeId, term: Term, body: Body) {
        self.late.push_back(Effect::Send(Message { from: self.id, to, term, body }));
    }
}
