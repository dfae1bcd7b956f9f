//! The node's side of the transport.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_replica::Question;
use coracle_transport::{Frame, Hello, Host, Refusal};

use crate::{directory::Directory, inbox::Inbox};

/// Called from the transport's tasks: nothing in it waits.
pub(crate) struct NodeHost {
    pub(crate) directory: Arc<Directory>,
    pub(crate) inbox: Arc<Inbox>,
}

impl Host for NodeHost {
    fn hello(&self) -> Hello {
        self.directory.hello()
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self.directory.admit(hello)
    }

    fn receive(&self, frames: Vec<Frame>) {
        let group = self.directory.group();
        self.inbox.push_messages(frames.into_iter().filter(|frame| frame.group == group).map(|frame| frame.message));
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        if group == self.directory.group() {
            self.inbox.push_unreachable(peer);
        }
    }

    fn answer(&self, question: Bytes) -> Bytes {
        match Question::decode(&question) {
            Ok(question) => self.directory.answer(&question).map(|answer| answer.encode()).unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, "refused a question");
                Bytes::new()
            }
        }
    }
}
