//! A node's clock: it starts somewhere, goes faster or slower than the simulator's, and may leap forward.

use std::time::Duration;

use coracle_core::{Rng, Time};

/// The rate of a clock that keeps the simulator's time.
const EVEN: u32 = 1024;

/// How fast a clock goes: `EVEN` is as fast as the simulator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(u32);

impl Rate {
    pub(crate) const EVEN: Rate = Rate(EVEN);

    /// Half to twice as fast.
    pub(crate) fn draw(rng: &mut Rng) -> Rate {
        Rate(EVEN / 2 + rng.below(u64::from(EVEN) * 3 / 2 + 1) as u32)
    }
}

/// A node's clock, by whole numbers alone: it reads the same on every platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When it was last set.
    at: Time,
    /// What it said then.
    local: Time,
    rate: Rate,
}

impl Clock {
    /// A clock that says `local` at `now`.
    pub(crate) fn new(now: Time, local: Time, rate: Rate) -> Clock {
        Clock { at: now, local, rate }
    }

    /// What it says at `now`.
    pub(crate) fn read(&self, now: Time) -> Time {
        let passed = now.since(self.at).as_nanos() * u128::from(self.rate.0) / u128::from(EVEN);
        self.local.plus(nanos(passed))
    }

    /// When it says `local`, or has gone past it.
    pub(crate) fn when(&self, local: Time) -> Time {
        let left = local.since(self.local).as_nanos() * u128::from(EVEN);
        self.at.plus(nanos(left.div_ceil(u128::from(self.rate.0))))
    }

    /// Goes at another rate from now on.
    pub(crate) fn set_rate(&mut self, now: Time, rate: Rate) {
        *self = Clock::new(now, self.read(now), rate);
    }

    /// Leaps forward.
    pub(crate) fn step(&mut self, now: Time, by: Duration) {
        *self = Clock::new(now, self.read(now).plus(by), self.rate);
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_asked_when_has_come_that_far_then() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            let clock = Clock::new(Time(rng.below(1000)), Time(rng.below(1 << 40)), Rate::draw(&mut rng));
            let local = Time(clock.local.0 + rng.below(1 << 40));
            let when = clock.when(local);
            assert!(clock.read(when) >= local && (when == clock.at || clock.read(Time(when.0 - 1)) < local));
        }
    }

    #[test]
    fn a_clock_never_goes_back() {
        let (mut rng, mut clock, mut last) = (Rng::new(2), Clock::new(Time(5), Time(100), Rate::EVEN), Time(100));
        for now in (10..1000).step_by(7).map(Time) {
            match rng.below(3) {
                0 => clock.set_rate(now, Rate::draw(&mut rng)),
                1 => clock.step(now, Duration::from_nanos(rng.below(50))),
                _ => {}
            }
            assert!(clock.read(now) >= last);
            last = clock.read(now);
        }
    }
}
