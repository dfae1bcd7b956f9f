//! Members by the beginning of their id.

use coracle::client::{Client, pb};

use crate::{
    exit::{Code, Failure, Outcome},
    status::id,
};

/// The member whose id begins so.
pub(crate) async fn find(client: &Client, prefix: &str) -> Outcome<u64> {
    among(&client.members().await?.members, prefix)
}

/// The one of these whose id begins so.
pub(crate) fn among(members: &[pb::Member], prefix: &str) -> Outcome<u64> {
    let found: Vec<u64> =
        members.iter().map(|member| member.node_id).filter(|node| id(*node).starts_with(prefix)).collect();
    match found[..] {
        [node] => Ok(node),
        [] => Err(Failure::new(Code::NotFound, format!("no member's id begins with {prefix}"))
            .hint("`coracle members` shows who is a member.")),
        _ => {
            let all: Vec<String> = found.iter().map(|node| id(*node)).collect();
            Err(Failure::new(
                Code::Usage,
                format!("more than one member's id begins with {prefix}: {}", all.join(", ")),
            )
            .hint("Give more of its digits."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_named_by_as_much_of_its_id_as_no_other_has() {
        let members =
            [0x7f3a << 48, 0x7f3b << 48, 0x0123 << 48].map(|node_id| pb::Member { node_id, ..Default::default() });
        assert_eq!(among(&members, "7f3a"), Ok(0x7f3a << 48));
        assert_eq!(among(&members, "0"), Ok(0x0123 << 48));
        assert_eq!(among(&members, "7f3b000000000000"), Ok(0x7f3b << 48));
        let failure = among(&members, "7f").unwrap_err();
        assert!(failure.code == Code::Usage && failure.to_string().contains("7f3b000000000000"), "{failure}");
        let failure = among(&members, "9").unwrap_err();
        assert!(failure.code == Code::NotFound && failure.to_string().contains("coracle members"), "{failure}");
    }
}
