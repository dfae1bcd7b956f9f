//! Waiting between attempts.

use std::time::Duration;

/// How long to wait after each failure in a row.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Between `min` and `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, next: min }
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next wait, drawn from the upper half of a time that doubles, so that processes that failed together do not come back together.
    pub fn next_wait(&mut self) -> Duration {
        let whole = self.next.min(self.max);
        self.next = (whole * 2).min(self.max);
        // Without randomness the wait is merely less spread.
        let draw = getrandom::u32().unwrap_or_default();
        whole / 2 + (whole / 2).mul_f64(f64::from(draw) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(150));
        for whole in [50, 100, 150, 150] {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_millis(whole / 2) && wait <= Duration::from_millis(whole), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(50));
    }
}
