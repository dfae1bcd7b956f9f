//! Many calls on one stream: those of a message go to the store together, and what is answered meanwhile comes back together.
//!
//! There is no task of its own: whoever writes the answers to the connection polls, and so reads the calls too.
//! A client that does not take its answers is therefore not read from either.

#[cfg(test)]
pub(in crate::api) mod tests;

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use coracle::client::{pb, status, wire};
use coracle::level::{Answer, Call, Error, Kv, Pipeline, Result};
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;
use tonic::{Request, Status, Streaming};

use super::metered::Tab;

/// About how large a message of answers gets; a single answer may be larger.
const ANSWERS_BYTES: usize = 64 << 10;
/// While so many bytes of answers wait to leave, no calls are handed on, and no answers are taken from the store.
const READY_BYTES_MAX: usize = 1 << 20;
/// The most answers that a store without a pipeline is asked for at once.
const ONE_BY_ONE_MAX: usize = 16;
/// What goes round an answer in its message: tag, length and number.
const ANSWER_OVERHEAD: usize = 32;

/// What one stream may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangeLimits {
    /// The most calls of a message; a stream that has one with more is ended.
    pub(crate) calls_max: usize,
    /// The most calls under way; further ones wait, and no further message is read meanwhile.
    pub(crate) under_way_max: usize,
    /// The most streams of a connection; further ones are refused.
    pub(crate) streams_max: usize,
    /// The most bytes of an answer.
    pub(crate) message_bytes_max: usize,
}

/// The calls and answers of a stream.
pub(crate) struct Exchange {
    calls: Streaming<pb::ExchangeRequest>,
    pipeline: Box<dyn Pipeline>,
    limits: ExchangeLimits,
    tab: Tab,
    /// The calls of the message that was read last, as far as there was no room for them.
    waiting: vec::IntoIter<pb::Call>,
    /// How many calls the pipeline has not answered.
    under_way: usize,
    /// Empty between calls: what the pipeline answers at once.
    answered: Vec<(u64, Result<Answer>)>,
    /// Answers that have not left.
    ready: VecDeque<Ready>,
    /// The bytes of all of them.
    ready_bytes: usize,
    /// Why nothing is read any more.
    over: Option<Over>,
    /// Ready once the server stops.
    stopping: BoxFuture<'static, ()>,
    is_stopping: bool,
}

/// An answer, and how many bytes it takes in its message.
struct Ready {
    answer: pb::Answer,
    len: usize,
}

enum Over {
    /// The client is done.
    Closed,
    /// The server ends it, once everything that it took is answered.
    Refused(Status),
    /// Its end was told.
    Told,
}

impl Exchange {
    /// # Errors
    /// When the connection has too many streams.
    pub(crate) fn new(
        request: Request<Streaming<pb::ExchangeRequest>>,
        kv: &Arc<dyn Kv>,
        limits: ExchangeLimits,
        mut stopping: watch::Receiver<bool>,
    ) -> std::result::Result<Exchange, Status> {
        let tab = Tab::open(request.extensions(), limits.streams_max).map_err(|error| status::from_error(&error))?;
        let pipeline =
            kv.pipeline().unwrap_or_else(|| Box::new(OneByOne { kv: kv.clone(), calls: FuturesUnordered::new() }));
        Ok(Exchange {
            calls: request.into_inner(),
            pipeline,
            limits,
            tab,
            waiting: Vec::new().into_iter(),
            under_way: 0,
            answered: Vec::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            over: None,
            stopping: Box::pin(async move {
                // That nobody can say so any more means the same.
                let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
            }),
            is_stopping: false,
        })
    }

    /// Reads what has arrived, as long as there is room, and hands it on in one piece.
    fn read(&mut self, cx: &mut Context<'_>) {
        if !self.is_stopping && self.stopping.as_mut().poll(cx).is_ready() {
            self.stop();
        }
        loop {
            self.hand_on();
            if self.over.is_some() || !self.has_room() {
                break;
            }
            match self.calls.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => self.take(message),
                Poll::Ready(Some(Err(status))) => self.over = Some(Over::Refused(refusal(status))),
                Poll::Ready(None) => self.over = Some(Over::Closed),
                Poll::Pending => break,
            }
        }
        self.pipeline.submit();
    }

    /// Nothing more is begun: what is only waiting has no effect.
    fn stop(&mut self) {
        self.is_stopping = true;
        if matches!(self.over, None | Some(Over::Closed)) {
            self.over = Some(Over::Refused(status::from_error(&Error::Closed)));
        }
        let (dropped, unanswered) = (self.waiting.len(), self.unanswered());
        self.waiting = Vec::new().into_iter();
        self.tab.answered(dropped, unanswered);
    }

    fn has_room(&self) -> bool {
        self.under_way + self.ready.len() < self.limits.under_way_max && self.ready_bytes < READY_BYTES_MAX
    }

    fn unanswered(&self) -> usize {
        self.under_way + self.waiting.len()
    }

    fn take(&mut self, message: pb::ExchangeRequest) {
        let (max, got) = (self.limits.calls_max, message.calls.len());
        if got > max {
            let limit = "the calls of a message of a stream".to_owned();
            let error = Error::LimitExceeded { limit, max: max as u64, got: got as u64 };
            self.over = Some(Over::Refused(status::from_error(&error)));
            return;
        }
        // There was room for another one, so that none waits.
        debug_assert_eq!(self.waiting.len(), 0);
        self.waiting = message.calls.into_iter();
        self.tab.arrived(self.unanswered());
    }

    /// Hands on as many of the calls that wait as there is room for.
    fn hand_on(&mut self) {
        while self.has_room() {
            let Some(pb::Call { number, call }) = self.waiting.next() else { break };
            match wire::call_from_wire(call) {
                Ok(call) => {
                    self.pipeline.push(number, call);
                    self.under_way += 1;
                }
                Err(error) => {
                    self.tab.answered(1, self.unanswered() + 1);
                    let bytes = self.finish(number, Err(error));
                    self.tab.keeps(bytes);
                }
            }
        }
    }

    /// Takes what was answered.
    fn gather(&mut self, cx: &mut Context<'_>) {
        if self.under_way == 0 || self.ready_bytes >= READY_BYTES_MAX {
            return;
        }
        let mut answered = mem::take(&mut self.answered);
        if self.pipeline.poll_answers(cx, &mut answered).is_ready() {
            self.tab.answered(answered.len(), self.unanswered());
            self.under_way = self.under_way.saturating_sub(answered.len());
            let bytes = answered.drain(..).map(|(number, result)| self.finish(number, result)).sum();
            self.tab.keeps(bytes);
        }
        self.answered = answered;
    }

    /// Makes an answer ready to leave, and says how many bytes it has.
    fn finish(&mut self, number: u64, result: Result<Answer>) -> usize {
        let mut answer = answer(number, result);
        let mut len = wire::answer_len(&answer) + ANSWER_OVERHEAD;
        let max = self.limits.message_bytes_max;
        if len > max {
            let limit = "the gRPC message".to_owned();
            let error = Error::LimitExceeded { limit, max: max as u64, got: len as u64 };
            answer.answer = Some(pb::answer::Answer::Error(status::to_wire(&error)));
            len = wire::answer_len(&answer) + ANSWER_OVERHEAD;
        }
        self.ready.push_back(Ready { answer, len });
        self.ready_bytes += len;
        len
    }

    /// As many answers as fit into a message.
    fn message(&mut self) -> Option<pb::ExchangeResponse> {
        let max = self.limits.message_bytes_max.min(ANSWERS_BYTES);
        let (mut bytes, mut count) = (0, 0);
        for Ready { len, .. } in &self.ready {
            if count > 0 && bytes + len > max {
                break;
            }
            bytes += len;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.ready_bytes -= bytes;
        self.tab.sends(bytes);
        Some(pb::ExchangeResponse { answers: self.ready.drain(..count).map(|ready| ready.answer).collect() })
    }

    /// What the stream ends with, once it does.
    fn end(&mut self) -> Poll<Option<Status>> {
        if self.over.is_none() || self.unanswered() > 0 {
            return Poll::Pending;
        }
        match self.over.replace(Over::Told) {
            Some(Over::Refused(status)) => Poll::Ready(Some(status)),
            _ => Poll::Ready(None),
        }
    }
}

impl Stream for Exchange {
    type Item = std::result::Result<pb::ExchangeResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.read(cx);
        this.gather(cx);
        match this.message() {
            Some(message) => Poll::Ready(Some(Ok(message))),
            None => this.end().map(|status| status.map(Err)),
        }
    }
}

fn answer(number: u64, result: Result<Answer>) -> pb::Answer {
    pb::Answer { number, answer: Some(wire::answer_to_wire(result)) }
}

/// What ends a stream that cannot be read: its details say that everything that was taken is answered.
fn refusal(status: Status) -> Status {
    match status::to_error(&status) {
        Some(_) => status,
        None => status::from_error(&Error::Protocol(status.message().to_owned())),
    }
}

/// The pipeline of a store that has none of its own.
struct OneByOne {
    kv: Arc<dyn Kv>,
    calls: FuturesUnordered<BoxFuture<'static, (u64, Result<Answer>)>>,
}

impl Pipeline for OneByOne {
    fn push(&mut self, number: u64, call: Call) {
        let kv = self.kv.clone();
        self.calls.push(Box::pin(async move { (number, perform(&*kv, call).await) }));
    }

    fn submit(&mut self) {}

    fn poll_answers(&mut self, cx: &mut Context<'_>, answers: &mut Vec<(u64, Result<Answer>)>) -> Poll<()> {
        let before = answers.len();
        while answers.len() - before < ONE_BY_ONE_MAX
            && let Poll::Ready(Some(answer)) = self.calls.poll_next_unpin(cx)
        {
            answers.push(answer);
        }
        if answers.len() > before { Poll::Ready(()) } else { Poll::Pending }
    }
}

async fn perform(kv: &dyn Kv, call: Call) -> Result<Answer> {
    match call {
        Call::GetMany { at, keys } => kv.get_many(at, keys).await.map(Answer::Values),
        Call::ContainsMany { at, keys } => kv.contains_many(at, keys).await.map(Answer::Contained),
        Call::Page { at, scan } => kv.page(at, scan).await.map(Answer::Page),
        Call::Commit { txn, once } => kv.commit(txn, once).await.map(Answer::Committed),
        other => Err(Error::Protocol(format!("calls like {other:?} are not known here"))),
    }
}
