//! Many calls of the key-value store of this process under way at once.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use coracle_level::{Answer, Call, Error, Limits, Pipeline, Result};
use coracle_node::Node;

use crate::{
    holds::Holds,
    requests::{Request, read, request, written},
};

/// How many of the largest answers may wait to be taken.
const ANSWERS_MAX: usize = 8;

/// See the module.
pub(crate) struct LocalPipeline {
    node: Node,
    limits: Limits,
    holds: Arc<Holds>,
    requests: coracle_node::Pipeline<Asked>,
    /// Those that were not even asked.
    refused: Vec<(u64, Error)>,
}

/// What a request is about.
#[derive(Clone, Copy)]
struct Asked {
    number: u64,
    is_write: bool,
}

impl LocalPipeline {
    pub(crate) fn new(node: Node, limits: Limits, holds: Arc<Holds>) -> LocalPipeline {
        let requests = node.pipeline(limits.answer_bytes_max.saturating_mul(ANSWERS_MAX));
        LocalPipeline { node, limits, holds, requests, refused: Vec::new() }
    }
}

impl Pipeline for LocalPipeline {
    fn push(&mut self, number: u64, call: Call) {
        match request(&self.limits, &self.holds, call) {
            Ok(Request::Propose(command)) => self.requests.propose(Asked { number, is_write: true }, command),
            Ok(Request::Query(query, consistency)) => {
                self.requests.query(Asked { number, is_write: false }, query, consistency);
            }
            Err(error) => self.refused.push((number, error)),
        }
    }

    fn submit(&mut self) {
        self.requests.submit();
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>, answers: &mut Vec<(u64, Result<Answer>)>) -> Poll<()> {
        let before = answers.len();
        answers.extend(self.refused.drain(..).map(|(number, error)| (number, Err(error))));
        let node = &self.node;
        let ended = self.requests.poll_ended(cx, |asked, end| {
            let answer = if asked.is_write { written(node, end) } else { read(node, end) };
            answers.push((asked.number, answer));
        });
        if answers.len() > before { Poll::Ready(()) } else { ended }
    }
}
