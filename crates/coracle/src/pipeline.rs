//! Many calls of the key-value store of this process under way at once.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use coracle_level::{
    Answer, Call, Command, CommandReply, Error, Limits, Pipeline, Query, QueryReply, ReadAt, Result, decode_answer,
    decode_reply, encode_command, encode_query,
};
use coracle_node::{Node, Reply, RequestError};

use crate::{
    holds::Holds,
    local_kv::{consistency, read_error, unexpected, write_error},
};

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
        let requests = node.pipeline();
        LocalPipeline { node, limits, holds, requests, refused: Vec::new() }
    }

    fn ask(&mut self, number: u64, call: Call) -> Result<()> {
        match call {
            Call::Commit { txn, once } => {
                self.limits.check(&txn)?;
                let command = encode_command(&Command::Txn { txn, once });
                self.requests.propose(Asked { number, is_write: true }, command);
                Ok(())
            }
            Call::GetMany { at, keys } => {
                self.limits.check_keys(&keys)?;
                self.query(number, at, &Query::GetMany { at: at.revision(), keys })
            }
            Call::ContainsMany { at, keys } => {
                self.limits.check_keys(&keys)?;
                self.query(number, at, &Query::ContainsMany { at: at.revision(), keys })
            }
            Call::Page { at, scan } => self.query(number, at, &Query::Page { at: at.revision(), scan }),
            other => Err(Error::Protocol(format!("calls like {other:?} are not known here"))),
        }
    }

    fn query(&mut self, number: u64, at: ReadAt, query: &Query) -> Result<()> {
        let consistency = consistency(&self.holds, at)?;
        self.requests.query(Asked { number, is_write: false }, encode_query(query), consistency);
        Ok(())
    }
}

impl Pipeline for LocalPipeline {
    fn push(&mut self, number: u64, call: Call) {
        if let Err(error) = self.ask(number, call) {
            self.refused.push((number, error));
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

fn written(node: &Node, end: std::result::Result<Reply, RequestError>) -> Result<Answer> {
    let reply = end.map_err(|error| write_error(node, &error))?;
    match decode_reply(&reply.data)? {
        CommandReply::Committed(committed) => Ok(Answer::Committed(committed)),
        other => Err(unexpected(&other)),
    }
}

fn read(node: &Node, end: std::result::Result<Reply, RequestError>) -> Result<Answer> {
    let reply = end.map_err(|error| read_error(node, &error))?;
    match decode_answer(&reply.data)? {
        QueryReply::Values(read) => Ok(Answer::Values(read)),
        QueryReply::Contained(read) => Ok(Answer::Contained(read)),
        QueryReply::Page(read) => Ok(Answer::Page(read)),
        other => Err(unexpected(&other)),
    }
}
