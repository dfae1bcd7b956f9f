//! The questions and answers of founding and joining as bytes: a version byte, then bincode's legacy encoding.

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::joining::{Invite, InviteAnswer, JoinAnswer, JoinRequest};

/// The version of the encoding, its first byte.
const VERSION: u8 = 2;
/// The largest question or answer, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// What an unfounded node asks each of its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which group is being founded: a process may host many.
    pub group: GroupId,
    /// The address that is asked: a name by which the asker knows the asked.
    pub at: String,
    /// Who asks.
    pub id: NodeId,
    /// Which life of it; the answer echoes it.
    pub incarnation: Incarnation,
    /// The cluster that it is for.
    pub cluster_name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The asker's incarnation: the answer is to that life of it and to none before.
    pub echo: Incarnation,
    /// Who answers.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Drawn at its start.
    pub boot_nonce: u64,
    /// The cluster that it is for.
    pub cluster_name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Where clients reach it.
    pub client_address: String,
    /// Whether it is founded.
    pub state: AnswerState,
}

/// Whether a node is founded, and what it knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnswerState {
    /// It is not.
    Unfounded {
        /// The list that it was given, itself included; empty when it was given none.
        peers: Vec<String>,
    },
    /// It is.
    Founded {
        /// The data of the entry at index 1.
        first: Bytes,
    },
    /// It joined a cluster that is founded, and does not know by which list.
    Joined {
        /// The cluster.
        cluster: ClusterId,
    },
}

/// Everything that a process may be asked from outside of its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inquiry {
    /// A node that is being founded asks its peers; answered by an [`Answer`].
    Founding(Question),
    /// A member invites; answered by an [`InviteAnswer`].
    Invite(Invite),
    /// A node asks to be taken in; answered by a [`JoinAnswer`].
    Join(JoinRequest),
}

impl Inquiry {
    /// Which of the process's groups is meant.
    pub fn group(&self) -> GroupId {
        match self {
            Inquiry::Founding(question) => question.group,
            Inquiry::Invite(invite) => invite.group,
            Inquiry::Join(request) => request.group,
        }
    }
}

/// Why bytes are no question or answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// They are of another version.
    #[error("a question or answer of version {found}; this build speaks version {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// There are more of them than a question or answer can have.
    #[error("a question or answer is limited to {max} bytes: got {got}")]
    TooLarge {
        /// The limit.
        max: usize,
        /// How many there are.
        got: usize,
    },
    /// They do not decode.
    #[error("a question or answer does not decode: {0}")]
    Undecodable(String),
}

/// Something that travels between nodes outside of a group.
pub trait Wire: Serialize + DeserializeOwned {
    /// As bytes.
    fn encode(&self) -> Bytes {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are anything else than what `encode` makes.
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes)
    }
}

impl Wire for Inquiry {}
impl Wire for Answer {}
impl Wire for InviteAnswer {}
impl Wire for JoinAnswer {}

fn encode(value: &impl Serialize) -> Bytes {
    let mut out = vec![VERSION];
    // Strings, numbers and bytes always encode: an empty text, which nobody takes for an answer, stands for the impossible.
    if bincode::serde::encode_into_std_write(value, &mut out, bincode::config::legacy()).is_err() {
        out.clear();
    }
    out.into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > BYTES_MAX {
        return Err(WireError::TooLarge { max: BYTES_MAX, got: bytes.len() });
    }
    let Some((version, rest)) = bytes.split_first() else {
        return Err(WireError::Undecodable("it is empty".to_owned()));
    };
    if *version != VERSION {
        return Err(WireError::Version { found: *version });
    }
    let config = bincode::config::legacy().with_limit::<BYTES_MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(rest, config).map_err(|error| WireError::Undecodable(error.to_string()))?;
    if used != rest.len() {
        return Err(WireError::Undecodable(format!("{} bytes follow it", rest.len() - used)));
    }
    Ok(value)
}
