//! The node's side of the transport.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_replica::{Inquiry, Matter, Wire};
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
        match Inquiry::decode(&question) {
            Ok(inquiry) if inquiry.group == self.directory.group() => self.answer_matter(inquiry.matter),
            Ok(_) => Bytes::new(),
            Err(error) => {
                tracing::debug!(%error, "refused a question");
                Bytes::new()
            }
        }
    }
}

impl NodeHost {
    /// What is answered; nothing while there is nothing to say.
    fn answer_matter(&self, matter: Matter) -> Bytes {
        match matter {
            Matter::Founding(question) => self.directory.answer(&question).map(|answer| answer.encode()),
            Matter::Invite(_) | Matter::Join(_) => None,
        }
        .unwrap_or_default()
    }
}
