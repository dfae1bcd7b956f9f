//! Bytes as text.

use std::fmt::Write;

/// The bytes as text: as they are when that is readable, otherwise with what is not UTF-8 or not printable escaped as `\xNN`.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                character if character.is_control() => escape(&mut text, character.to_string().as_bytes()),
                character => text.push(character),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The bytes as they are if they are UTF-8, otherwise escaped.
pub(crate) fn verbatim(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| readable(bytes), str::to_owned)
}

/// Rows of cells as lines, with columns as wide as their widest cell.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_readable_stays_and_the_rest_is_escaped() {
        assert_eq!(readable("häuser 42".as_bytes()), "häuser 42");
        assert_eq!(readable(b"a\xff\n\\b"), "a\\xff\\x0a\\\\b");
        assert_eq!(verbatim(b"a\n\\b"), "a\n\\b");
        assert_eq!(verbatim(b"a\xff"), "a\\xff");
    }
}
