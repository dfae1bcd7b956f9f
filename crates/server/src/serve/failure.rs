//! Why a node does not start, or stops, as an exit code and words.

use coracle::{BuildError, FoundingRefusal, JoinRefusal, StartError, StopReason, StorageUrl, storage::StorageError};

use crate::{
    cli::ServeArgs,
    exit::{Code, Failure, Outcome},
};

/// A node that did not start.
pub(crate) fn of_start(error: BuildError, args: &ServeArgs) -> Failure {
    let failure = Failure::new(start_code(&error), error.to_string());
    match &error {
        BuildError::Storage(error) | BuildError::Start(StartError::Storage(error)) => match error {
            StorageError::Locked { .. } => {
                failure.hint("Stop the other process, or choose another directory with --storage.")
            }
            StorageError::Damaged { .. } => failure.hint(format!(
                "Do not delete {} while the other nodes need this one's copy. \
                 When a majority of them is whole, the way back is as a new node: `coracle leave` with this one's id (`coracle members` shows it), \
                 then move the data away and start with --join.",
                args.storage.as_ref().map_or_else(|| "the data".to_owned(), ToString::to_string)
            )),
            StorageError::Lost { .. } => failure.hint(
                "This node must not vote as if nothing had been lost. The way back is as a new node: `coracle leave` with this one's id, \
                 then start with --join on another namespace. --allow-weaker-durability starts it as it is.",
            ),
            StorageError::Invalid(_) if matches!(args.storage, Some(StorageUrl::Redis(_))) => failure.hint(
                "Change the server's settings or the URL. \
                 With --allow-weaker-durability a server is accepted that can lose what was acknowledged, but none that throws keys away.",
            ),
            _ => failure,
        },
        BuildError::Start(StartError::Transport(_)) => {
            failure.hint("Another process may listen there: choose another port, or stop it.")
        }
        _ => failure,
    }
}

fn start_code(error: &BuildError) -> Code {
    match error {
        BuildError::Storage(error) | BuildError::Start(StartError::Storage(error)) => storage_code(error),
        BuildError::Start(StartError::Refused(refusal)) => refusal_code(refusal),
        BuildError::Start(StartError::NotTakenIn(refusal)) => join_code(refusal),
        BuildError::Start(StartError::Transport(_) | StartError::Environment { .. }) => Code::Io,
        _ => Code::Configuration,
    }
}

fn storage_code(error: &StorageError) -> Code {
    match error {
        StorageError::Io { .. } | StorageError::Full { .. } | StorageError::Stopped(_) => Code::Io,
        StorageError::Damaged { .. } | StorageError::Lost { .. } => Code::Damaged,
        StorageError::Locked { .. } | StorageError::Engine { .. } | StorageError::Invalid(_) => Code::Configuration,
        _ => Code::Internal,
    }
}

fn refusal_code(refusal: &FoundingRefusal) -> Code {
    match refusal {
        FoundingRefusal::ClusterName { .. } | FoundingRefusal::ListsDisagree { .. } => Code::Configuration,
        _ => Code::Refused,
    }
}

fn join_code(refusal: &JoinRefusal) -> Code {
    match refusal {
        JoinRefusal::ClusterName { .. } | JoinRefusal::OtherCluster { .. } | JoinRefusal::OutOfReach { .. } => {
            Code::Configuration
        }
        _ => Code::Refused,
    }
}

/// A node that has stopped.
pub(crate) fn of_stop(reason: &StopReason) -> Outcome {
    let code = match reason {
        StopReason::Shutdown => return Ok(()),
        StopReason::Storage(_) => Code::Io,
        StopReason::Damaged(_) => Code::Damaged,
        _ => Code::Internal,
    };
    let failure = Failure::new(code, format!("the node has stopped: {reason}"));
    Err(match code {
        Code::Damaged => failure.hint("Start it again: it repairs what its peers have, or says what the way back is."),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    use coracle::{
        Configuration,
        core::{ClusterId, NodeId},
    };

    use super::*;

    #[test]
    fn a_start_that_fails_has_the_exit_code_of_its_reason() {
        let storage = |error: StorageError| BuildError::Storage(error);
        let start = |error: StartError| BuildError::Start(error);
        let place = || "d".to_owned();
        for (error, expected) in [
            (storage(StorageError::io("open", std::io::Error::other("x"))), 74),
            (storage(StorageError::damaged("d", "x")), 65),
            (storage(StorageError::Locked { place: place() }), 78),
            (start(StartError::Storage(StorageError::damaged("d", "x"))), 65),
            (start(StartError::Refused(FoundingRefusal::Wiped { member: NodeId(1) })), 77),
            (start(StartError::NotTakenIn(JoinRefusal::Wiped { member: NodeId(1) })), 77),
            (start(StartError::NotTakenIn(JoinRefusal::OtherCluster { cluster: ClusterId(1) })), 78),
            (start(StartError::Configuration(Configuration::IdentityMissing)), 78),
            (BuildError::NoAddress, 78),
        ] {
            assert_eq!(start_code(&error) as u8, expected, "{error}");
        }
    }

    #[test]
    fn a_node_that_stops_by_itself_has_the_exit_code_of_its_reason() {
        assert_eq!(of_stop(&StopReason::Shutdown), Ok(()));
        for (reason, expected) in [
            (StopReason::Storage("x".to_owned()), 74),
            (StopReason::Damaged("x".to_owned()), 65),
            (StopReason::Internal("x".to_owned()), 70),
        ] {
            assert_eq!(of_stop(&reason).unwrap_err().code as u8, expected);
        }
    }
}
