//! `coracle demo words`, running.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{binary::binary, wait::eventually};

/// The word count, while it runs and when it has ended.
#[derive(Debug)]
pub struct Words {
    child: Child,
    folder: TempDir,
    total: u64,
}

impl Words {
    /// Begins to count so many words.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(endpoints: &str, total: u64) -> Words {
        let folder = tempfile::tempdir().unwrap();
        let words: Vec<String> = (0..total).map(|number| format!("w{}", number * number % 97)).collect();
        let input = folder.path().join("words");
        fs::write(&input, words.join(" ")).unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = Command::new(binary())
            .args(["--endpoints", endpoints, "demo", "words", "--json", "--clients", "8", "--input"])
            .arg(input)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap();
        Words { child, folder, total }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The lines that it has printed whole.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file("out")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many words were counted when it last said so.
    pub fn done(&self) -> u64 {
        self.lines().iter().rev().find_map(|line| line["done"].as_u64()).unwrap_or(0)
    }

    /// Waits until so many words were counted, of which there have to be more.
    ///
    /// # Panics
    /// When they are not in time, or it is over already.
    pub fn reaches(&self, done: u64) {
        eventually(&format!("{done} words are counted"), || {
            let found = self.done();
            assert!(found < self.total, "all words are counted already");
            if found >= done { Ok(()) } else { Err(format!("{found}: {}", self.complaint())) }
        });
    }

    fn complaint(&self) -> String {
        fs::read_to_string(self.file("err")).unwrap_or_default()
    }

    /// Waits for its end, which has to be that the counts are equal, and no increment's outcome is unknown.
    ///
    /// # Panics
    /// When it is anything else.
    pub fn is_exact(mut self) {
        let status = eventually("the word count ends", || {
            self.child.try_wait().unwrap().ok_or_else(|| format!("{} words are counted", self.done()))
        });
        let lines = self.lines();
        let last = lines.last().cloned().unwrap_or_default();
        assert!(
            status.success() && last["equal"] == true && last["unknown"] == 0,
            "{status}: {last}: {}",
            self.complaint()
        );
        assert_eq!(last["words"], self.total);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // It may have ended; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
