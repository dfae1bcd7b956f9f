//! Choices that a seed repeats, and what they ruin.

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
};

/// Draws numbers from a seed.
#[derive(Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// From the seed that `CORACLE_SEED` has, or a new one; says which.
    ///
    /// # Panics
    /// When `CORACLE_SEED` is no number.
    #[allow(clippy::print_stderr, reason = "a failure is repeated with it")]
    pub fn thrown() -> Dice {
        let seed = env::var("CORACLE_SEED")
            .map_or_else(|_| RandomState::new().hash_one(0), |seed| seed.parse().expect("CORACLE_SEED is a number"));
        eprintln!("CORACLE_SEED={seed}");
        Dice { state: seed }
    }

    /// The next number below `end` (splitmix64).
    ///
    /// # Panics
    /// When there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }
}

/// All files below a folder that are not empty, in order.
///
/// # Panics
/// When it cannot be read.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// How much of a file is in use: zeros at its end are not.
pub fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Flips a bit in the part of a file that is in use, and says which byte has it.
///
/// # Panics
/// When it cannot be read or written.
pub fn flip(path: &Path, dice: &mut Dice) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let at = dice.below(used(&bytes).max(1));
    bytes[at] ^= 1 << dice.below(8);
    fs::write(path, bytes).unwrap();
    at
}

/// Copies a folder.
///
/// # Panics
/// When it cannot.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}
