//! How the process ends: a code for scripts, and words for people.

use std::{fmt, process::ExitCode};

use coracle::{
    client::{ClusterError, Refusal, RefusalKind},
    level::Error,
};

/// What a script can tell apart; the numbers are those of `sysexits.h` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// What was asked for is not there, or not as it should be.
    NotFound = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Data is damaged.
    Damaged = 65,
    /// No node, no leader or no majority.
    Unavailable = 69,
    /// Something that should not happen.
    Internal = 70,
    /// A file, a disk or a socket failed.
    Io = 74,
    /// The write may or may not have taken effect.
    Unknown = 75,
    /// The request was understood and refused.
    Refused = 77,
    /// The configuration does not fit.
    Configuration = 78,
}

/// A command that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    what: String,
    next: Option<String>,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// What was wrong, and what was expected.
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Failure {
        Failure { code, what: what.into(), next: None }
    }

    /// An error of the operating system.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Failure {
        Failure::new(Code::Io, format!("{what}: {error}"))
    }

    /// With what to do next.
    pub(crate) fn hint(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }

    /// Tells it on standard error. A reader that closed our standard output has seen enough, and needs no message.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.what.is_empty() {
            eprintln!("error: {self}");
        }
        ExitCode::from(self.code as u8)
    }

    /// Only a code: everything was said already.
    pub(crate) fn silent(code: Code) -> Failure {
        Failure::new(code, String::new())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "\n{next}"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let failure = Failure::new(code(&error), error.to_string());
        match &error {
            Error::NotLeader { .. } | Error::Unavailable(_) | Error::Closed => failure.hint(
                "A majority of the nodes has to be up and connected: `coracle status` shows them; --endpoints and --timeout choose whom to ask and for how long.",
            ),
            Error::Unknown(_) | Error::SessionExpired(_) => {
                failure.hint("It may have taken effect: read the key before you repeat the write.")
            }
            Error::SnapshotGone(_) => failure.hint("Run the command again."),
            Error::Protocol(_) => failure.hint("Check that --endpoints names client addresses, and that the versions fit."),
            _ => failure,
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Failure {
        match error {
            ClusterError::Refused(refusal) => Failure::from(refusal),
            ClusterError::Call(Error::Unknown(why)) => {
                Failure::new(Code::Unknown, format!("the outcome is unknown: {why}"))
                    .hint("It may have taken effect: `coracle members` shows it.")
            }
            ClusterError::Call(error) => Failure::from(error),
            other => Failure::new(Code::Internal, other.to_string()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let (code, next) = match refusal.kind {
            RefusalKind::NotMember => (Code::NotFound, "`coracle members` shows who is a member."),
            RefusalKind::ChangeInProgress => (
                Code::Unavailable,
                "Wait until `coracle members` shows nobody on the way in or out, or raise --timeout.",
            ),
            RefusalKind::Unreachable => (
                Code::Unavailable,
                "Start the node there, and give the address at which its peers reach it, for example /ip4/10.0.0.4/tcp/9490.",
            ),
            RefusalKind::NotTakenOver => (Code::Unavailable, "`coracle members` shows who leads, and who keeps up."),
            _ => return Failure::new(Code::Refused, refusal.reason),
        };
        Failure::new(code, refusal.reason).hint(next)
    }
}

/// The code for an error of the store.
pub(crate) fn code(error: &Error) -> Code {
    match error {
        Error::LimitExceeded { .. } | Error::NotAnInteger { .. } => Code::Refused,
        Error::SessionExpired(_) | Error::Unknown(_) => Code::Unknown,
        Error::SnapshotGone(_)
        | Error::NotLeader { .. }
        | Error::Unavailable(_)
        | Error::Busy { .. }
        | Error::NoSpace(_)
        | Error::Closed => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle::level::{Revision, SessionId};

    use super::*;

    #[test]
    fn every_error_has_its_exit_code() {
        for (error, expected) in [
            (Error::LimitExceeded { limit: "key".to_owned(), max: 1, got: 2 }, 77),
            (Error::NotAnInteger { key: "k".to_owned() }, 77),
            (Error::SessionExpired(SessionId(1)), 75),
            (Error::Unknown("lost".to_owned()), 75),
            (Error::SnapshotGone(Revision(1)), 69),
            (Error::NotLeader { leader: None }, 69),
            (Error::Unavailable("down".to_owned()), 69),
            (Error::Busy { retry_after: Duration::ZERO }, 69),
            (Error::NoSpace("no space in /data: 7 bytes are needed".to_owned()), 69),
            (Error::Closed, 69),
            (Error::Protocol("odd".to_owned()), 70),
        ] {
            assert_eq!(Failure::from(error.clone()).code as u8, expected, "{error}");
        }
    }

    #[test]
    fn every_refusal_has_its_exit_code_and_says_why() {
        for (kind, expected) in [
            (RefusalKind::NotMember, 1),
            (RefusalKind::Refused, 77),
            (RefusalKind::ChangeInProgress, 69),
            (RefusalKind::Unreachable, 69),
            (RefusalKind::NotTakenOver, 69),
        ] {
            let failure = Failure::from(ClusterError::from(Refusal::new(kind, "because")));
            assert!(failure.code as u8 == expected && failure.to_string().starts_with("because"), "{failure}");
        }
        let unknown = Failure::from(ClusterError::from(Error::Unknown("lost".to_owned())));
        assert!(unknown.code == Code::Unknown && unknown.to_string().contains("coracle members"), "{unknown}");
        assert_eq!(Failure::from(ClusterError::from(Error::Closed)).code, Code::Unavailable);
    }

    #[test]
    fn a_failure_says_what_and_what_next_in_two_lines() {
        let failure = Failure::from(Error::Unknown("the connection broke".to_owned()));
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("the connection broke") && text.contains("read the key"), "{text}");
    }
}
