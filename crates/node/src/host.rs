//! The node's side of the transport.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_replica::{Inquiry, Matter, Wire};
use coracle_transport::{Frame, Hello, Host, Refusal};

use crate::{
    admissions::Admissions,
    directory::Directory,
    inbox::{Inbox, Order},
};

/// Called from the transport's tasks: nothing in it waits.
pub(crate) struct NodeHost {
    pub(crate) directory: Arc<Directory>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) admissions: Admissions,
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

    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        let is_about_us = *refusal == Refusal::Stranger { node: self.directory.identity().node };
        if group == self.directory.group() && is_about_us && self.directory.refused_by(peer) {
            self.inbox.push_order(Order::LookAtRefusals);
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
        let answer = match matter {
            Matter::Founding(question) => self.directory.answer(&question).map(|answer| answer.encode()),
            Matter::Invite(invite) => self.directory.answer_invite(&invite).map(|(answer, is_new)| {
                if is_new {
                    self.inbox.push_order(Order::LookAtTold);
                }
                answer.encode()
            }),
            Matter::Join(request) => {
                let status = self.directory.status();
                status.map(|status| self.admissions.answer(&self.directory, &self.inbox, &status, request).encode())
            }
        };
        answer.unwrap_or_default()
    }
}
