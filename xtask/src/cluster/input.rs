//! The texts whose words are counted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::process::root;

/// So many that a run lasts long enough for a leader to die in the middle.
const WORDS_MIN: usize = 20_000;

/// The given files, or one made of the project's own documents.
pub(super) fn texts(given: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    if given.is_empty() {
        let path = folder.join("words.txt");
        fs::write(&path, repeated(&documents()?)?).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(vec![path]);
    }
    for path in given {
        fs::File::open(path).with_context(|| format!("--input {}: cannot be read", path.display()))?;
    }
    given.iter().map(|path| std::path::absolute(path).context("--input")).collect()
}

/// The project's Markdown files, one after the other.
fn documents() -> Result<String> {
    let mut paths = Vec::new();
    markdown_in(&root(), &mut paths)?;
    let docs = root().join("docs");
    if docs.is_dir() {
        walk(&docs, &mut paths)?;
    }
    paths.sort();
    let mut text = String::new();
    for path in paths {
        text.push_str(&fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
        text.push('\n');
    }
    Ok(text)
}

fn markdown_in(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    Ok(())
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    markdown_in(folder, paths)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, paths)?;
        }
    }
    Ok(())
}

fn repeated(text: &str) -> Result<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count();
    if words == 0 {
        bail!("there are no documents to count the words of: give a text with --input");
    }
    Ok(text.repeat(WORDS_MIN.div_ceil(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_repeated_until_it_is_long_enough() {
        let text = repeated("one, two!\n").unwrap();
        assert_eq!(text.split_whitespace().count(), WORDS_MIN);
        assert!(repeated(" - \n").is_err());
    }

    #[test]
    fn an_input_that_is_missing_is_named() {
        let error = texts(&[PathBuf::from("no/such/text")], Path::new(".")).unwrap_err();
        assert!(error.to_string().contains("no/such/text"), "{error}");
    }
}
