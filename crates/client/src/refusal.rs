//! Why a cluster refuses what an operator asked for, and how that travels.

use prost::Message;
use tonic::{Code, Status};

use crate::{
    pb::{self, error::Detail},
    status::clip_text,
};

/// In which way an operation on the cluster was refused; surely nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The node is no member, or not any more.
    NotMember,
    /// Such a change cannot be, or the node that it is about refuses.
    Refused,
    /// Another change is under way, or the leader is new: it may be asked for again.
    ChangeInProgress,
    /// The node that it is about does not answer.
    Unreachable,
    /// No other node took leadership over.
    NotTakenOver,
}

const KINDS: [(RefusalKind, &str, Code); 5] = [
    (RefusalKind::NotMember, "CLUSTER_NOT_A_MEMBER", Code::NotFound),
    (RefusalKind::Refused, "CLUSTER_REFUSED", Code::FailedPrecondition),
    (RefusalKind::ChangeInProgress, "CLUSTER_CHANGE_IN_PROGRESS", Code::Aborted),
    (RefusalKind::Unreachable, "CLUSTER_UNREACHABLE", Code::Unavailable),
    (RefusalKind::NotTakenOver, "CLUSTER_NOT_TAKEN_OVER", Code::Aborted),
];

/// An operation on the cluster that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// In which way.
    pub kind: RefusalKind,
    /// Why, for people.
    pub reason: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(kind: RefusalKind, reason: impl Into<String>) -> Refusal {
        Refusal { kind, reason: reason.into() }
    }

    /// What a server answers with.
    pub fn to_status(&self) -> Status {
        let (_, name, code) = KINDS.into_iter().find(|(kind, ..)| *kind == self.kind).unwrap_or(KINDS[1]);
        let reason = clip_text(&self.reason);
        let detail = Some(Detail::Reason(reason.clone()));
        let details = pb::Error { code: name.to_owned(), message: reason, detail };
        Status::with_details(code, name, details.encode_to_vec().into())
    }

    /// What a client makes of a status; `None` when it is no refusal.
    pub fn from_status(status: &Status) -> Option<Refusal> {
        let details = pb::Error::decode(status.details()).ok()?;
        let (kind, ..) = KINDS.into_iter().find(|(_, name, _)| *name == details.code)?;
        let reason = match details.detail {
            Some(Detail::Reason(reason)) => reason,
            _ => details.message,
        };
        Some(Refusal { kind, reason })
    }
}

#[cfg(test)]
mod tests {
    use coracle_level::Error;

    use super::*;
    use crate::status;

    #[test]
    fn every_refusal_survives_the_way_over_the_wire() {
        for (kind, name, _) in KINDS {
            let refusal = Refusal::new(kind, "because");
            assert_eq!(Refusal::from_status(&refusal.to_status()), Some(refusal.clone()));
            // Whoever does not know refusals still reads what it is.
            let other = status::to_error(&refusal.to_status());
            assert_eq!(other, Some(Error::Protocol(format!("{name}: because"))));
        }
    }

    #[test]
    fn an_error_of_the_store_is_no_refusal() {
        assert_eq!(Refusal::from_status(&status::from_error(&Error::Closed)), None);
        assert_eq!(Refusal::from_status(&Status::unavailable("proxy")), None);
    }

    #[test]
    fn a_long_reason_is_cut_so_that_it_fits_into_headers() {
        let refusal = Refusal::new(RefusalKind::Refused, "é".repeat(10_000));
        assert!(refusal.to_status().details().len() < 4096);
    }
}
