//! The words of texts, and how often each occurs.

use std::{collections::BTreeMap, path::PathBuf};

use crate::exit::{Failure, Outcome};

/// The text that comes with the program.
const TEXT: &str = include_str!("text.txt");
/// How often it is repeated, so that a run takes a while.
const TEXT_REPEATED: usize = 40;
/// A word's bytes beyond this are left out, so that any text makes valid keys.
const WORD_BYTES_MAX: usize = 256;
/// The most bytes of all texts together.
const INPUT_BYTES_MAX: u64 = 256 << 20;

/// The words of the files, or of the text that comes with the program.
pub(crate) fn read(files: &[PathBuf]) -> Outcome<Vec<String>> {
    if files.is_empty() {
        return Ok(words(&TEXT.repeat(TEXT_REPEATED)));
    }
    let mut all = Vec::new();
    let mut left = INPUT_BYTES_MAX;
    for file in files {
        let failed = |error| Failure::io(format_args!("could not read {}", file.display()), &error);
        let bytes = std::fs::read(file).map_err(failed)?;
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            let what =
                format!("the texts are limited to {INPUT_BYTES_MAX} bytes together: {} is beyond", file.display());
            Failure::new(crate::exit::Code::Usage, what)
        })?;
        all.extend(words(&String::from_utf8_lossy(&bytes)));
    }
    Ok(all)
}

/// Runs of letters and digits, in lower case.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| clip(word.to_lowercase()))
        .collect()
}

/// How often each word occurs.
pub(crate) fn count(words: &[String]) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word.clone()).or_insert(0) += 1;
    }
    counts
}

fn clip(mut word: String) -> String {
    if word.len() > WORD_BYTES_MAX {
        let end = (0..=WORD_BYTES_MAX).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(0);
        word.truncate(end);
    }
    word
}

/// A word whose counts differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) word: String,
    pub(crate) expected: i64,
    pub(crate) found: Option<String>,
}

/// What the cluster counted otherwise than expected, in order of the words.
pub(crate) fn differences(expected: &BTreeMap<String, i64>, found: &BTreeMap<String, String>) -> Vec<Difference> {
    let missing_or_wrong = expected.iter().filter_map(|(word, count)| {
        let value = found.get(word);
        (value.map(String::as_str) != Some(count.to_string().as_str())).then(|| Difference {
            word: word.clone(),
            expected: *count,
            found: value.cloned(),
        })
    });
    let unexpected = found.iter().filter(|(word, _)| !expected.contains_key(*word)).map(|(word, value)| Difference {
        word: word.clone(),
        expected: 0,
        found: Some(value.clone()),
    });
    missing_or_wrong.chain(unexpected).collect()
}

/// The most frequent words; of equally frequent ones, the first in the alphabet.
pub(crate) fn top(counts: &BTreeMap<String, i64>, how_many: usize) -> Vec<(String, i64)> {
    let mut sorted: Vec<(String, i64)> = counts.iter().map(|(word, count)| (word.clone(), *count)).collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sorted.truncate(how_many);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        assert_eq!(words("The Häuser, the 3 boats--\n!"), ["the", "häuser", "the", "3", "boats"]);
        assert_eq!(words(&"é".repeat(1000))[0].len(), WORD_BYTES_MAX);
        assert!(words(" \t,.").is_empty());
    }

    #[test]
    fn counts_and_top_words() {
        let counts = count(&words("b a b c a b"));
        assert_eq!(top(&counts, 2), [("b".to_owned(), 3), ("a".to_owned(), 2)]);
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let expected = count(&words("a a b c"));
        let found = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(differences(&expected, &found(&[("a", "2"), ("b", "1"), ("c", "1")])), []);
        let different = differences(&expected, &found(&[("a", "3"), ("c", "1"), ("d", "1")]));
        let words: Vec<_> = different.iter().map(|d| (d.word.as_str(), d.expected, d.found.as_deref())).collect();
        assert_eq!(words, [("a", 2, Some("3")), ("b", 1, None), ("d", 0, Some("1"))]);
    }

    #[test]
    fn there_is_a_text_without_files() {
        assert!(read(&[]).unwrap().len() > 5_000);
        assert!(read(&[PathBuf::from("/nonexistent/text")]).unwrap_err().to_string().contains("/nonexistent/text"));
    }
}
