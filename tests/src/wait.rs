//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is good, and returns it.
///
/// # Panics
/// When it is not good in time, with the last reason why not.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < deadline, "{what}: not within {} s: {why}", PATIENCE.as_secs()),
        }
        thread::sleep(PAUSE);
    }
}

/// The same for conditions without more to say.
///
/// # Panics
/// When it does not hold in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || if holds() { Ok(()) } else { Err("it does not hold".to_owned()) });
}
