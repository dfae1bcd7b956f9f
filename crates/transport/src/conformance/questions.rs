//! Questions from outside of any group: founding and joining.

use bytes::Bytes;

use super::{
    Factory, Verdict,
    addresses::unspoken,
    messages::pattern,
    process::{GROUP, Process, ends},
};
use crate::{Address, Refusal, Transport, TransportError};

/// The largest question and answer (the trait's limit).
const BYTES_MAX: usize = 1 << 20;

async fn ask(from: &dyn Transport, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
    ends("a question is answered, or not, within seconds", from.ask(address, question)).await
}

async fn answered(from: &dyn Transport, address: &Address, question: Bytes) -> Bytes {
    let answer = ask(from, address, question).await;
    answer.unwrap_or_else(|error| panic!("a question is not answered: {error}"))
}

pub(super) async fn answers_come_without_admission(factory: &dyn Factory) -> Verdict {
    let (a, b) = (Process::start(factory, 1).await, Process::start(factory, 2).await);
    b.host.state().refuses.insert((GROUP, a.node), Refusal::Stranger { node: a.node });
    let outsider = factory.transport();
    for (asker, who) in [(&a.transport, "a stranger"), (&outsider, "who does not listen")] {
        let answer = answered(asker.as_ref(), &b.address, Bytes::from_static(b"who?")).await;
        assert_eq!(answer, "who?", "{who} gets the host's answer");
    }
    assert!(b.has_received_nothing(), "a question is not a frame");
    Verdict::Passed
}

pub(super) async fn many_questions_at_once(factory: &dyn Factory) -> Verdict {
    let b = Process::start(factory, 2).await;
    let outsider = factory.transport();
    let mut questions = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (outsider, address) = (outsider.clone(), b.address.clone());
        questions.spawn(async move {
            let question = Bytes::from(format!("question {number}"));
            (answered(outsider.as_ref(), &address, question.clone()).await, question)
        });
    }
    while let Some(result) = questions.join_next().await {
        let (answer, question) = result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        assert_eq!(answer, question, "each gets the answer to its own question");
    }
    Verdict::Passed
}

pub(super) async fn large_questions_and_answers(factory: &dyn Factory) -> Verdict {
    let b = Process::start(factory, 2).await;
    let outsider = factory.transport();
    let outsider = outsider.as_ref();
    assert_eq!(answered(outsider, &b.address, Bytes::new()).await, "", "an empty question");
    let largest = pattern(BYTES_MAX);
    assert_eq!(answered(outsider, &b.address, largest.clone()).await, largest, "a question of 1 MiB");
    let question = ask(outsider, &b.address, pattern(BYTES_MAX + 1)).await;
    assert!(matches!(question, Err(TransportError::Unanswered { .. })), "a question beyond 1 MiB: {question:?}");
    let answer = ask(outsider, &b.address, (BYTES_MAX + 1).to_string().into()).await;
    assert!(matches!(answer, Err(TransportError::Unanswered { .. })), "an answer beyond 1 MiB");
    assert_eq!(answered(outsider, &b.address, Bytes::from_static(b"still")).await, "still", "after refused ones");
    Verdict::Passed
}

pub(super) async fn questions_that_cannot_be_answered(factory: &dyn Factory) -> Verdict {
    let (a, b) = (Process::start(factory, 1).await, Process::start(factory, 2).await);
    b.transport.shutdown().await;
    match ask(a.transport.as_ref(), &b.address, Bytes::from_static(b"?")).await {
        Err(TransportError::Unanswered { address, .. }) => assert_eq!(address, b.address.to_string(), "who was asked"),
        other => panic!("nobody is there, and this came of a question: {other:?}"),
    }
    let foreign = ask(a.transport.as_ref(), &unspoken(&a.address), Bytes::new()).await;
    assert!(matches!(foreign, Err(TransportError::Unsupported { .. })), "another transport's address: {foreign:?}");
    Verdict::Passed
}
