//! The bytes of small records.

pub(crate) use coracle_storage::files::codec::{VERSION, open, seal};

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
