//! Which faults a seed has, and how often.

use std::{collections::BTreeMap, time::Duration};

use coracle_core::Rng;

use crate::{FaultMix, schedule::FaultKind};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The faults of one seed: each is on with probability one half, its rate drawn (a swarm finds more than one mix of everything).
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) network: NetworkFaults,
    pub(crate) disk: DiskFaults,
    /// The mean time between two faults of each kind.
    every: BTreeMap<FaultKind, Duration>,
    /// How likely a crash is between two effects, once one is due.
    pub(crate) crash_between_effects: f64,
    /// How long a node is down, on average.
    pub(crate) down: Duration,
    /// How long a partition lasts, on average.
    pub(crate) partition: Duration,
    /// How long a pause lasts, at most.
    pub(crate) pause_max: Duration,
    /// How long a link holds back what it carries, at most.
    pub(crate) stall_max: Duration,
}

/// What the network does to messages.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFaults {
    pub(crate) delay: Duration,
    /// How likely a message takes `TAIL` times as long.
    pub(crate) tail: f64,
    pub(crate) drop: f64,
    pub(crate) duplicate: f64,
    /// How late a duplicate may come.
    pub(crate) duplicate_delay_max: Duration,
    /// Messages of a link arrive in the order in which they were sent.
    pub(crate) in_order: bool,
    /// The most messages on their way on one link; more are dropped.
    pub(crate) queue_max: usize,
}

/// What the disk does to writes.
#[derive(Clone, Debug)]
pub(crate) struct DiskFaults {
    pub(crate) latency: Duration,
    /// How long a slow disk makes a write wait, at most.
    pub(crate) slow_max: Duration,
    /// How likely the batch after the last that survives a crash is torn.
    pub(crate) torn: f64,
}

/// The longest that a disk is full.
const FULL_MAX: Duration = Duration::from_secs(20);

impl Faults {
    /// Draws the faults of a seed.
    pub(crate) fn draw(rng: &mut Rng, mix: FaultMix) -> Faults {
        let mut every = BTreeMap::new();
        for kind in FaultKind::ALL {
            let (min, max) = match kind {
                FaultKind::PowerCut | FaultKind::CrashAfterReply | FaultKind::ClockStep => (10 * SECOND, 60 * SECOND),
                FaultKind::DiskError | FaultKind::DiskFull | FaultKind::Wipe | FaultKind::Rot => {
                    (20 * SECOND, 120 * SECOND)
                }
                FaultKind::Membership | FaultKind::Crash => (SECOND / 2, 10 * SECOND),
                _ => (SECOND, 20 * SECOND),
            };
            let drawn = rng.duration(min, max);
            // Where crashes are all there is, there is always one kind of them.
            let is_on = rng.chance(0.5) || (kind == FaultKind::Crash && mix == FaultMix::Crashes);
            if is_on && mix.has(kind) {
                every.insert(kind, drawn);
            }
        }
        Faults {
            network: NetworkFaults::draw(rng, mix),
            disk: DiskFaults::draw(rng),
            every,
            crash_between_effects: 0.2,
            // Some supervisors start a process again at once: what it promised before then still counts.
            down: if rng.chance(0.4) { rng.duration(MS, 100 * MS) } else { rng.duration(50 * MS, 12 * SECOND) },
            partition: rng.duration(100 * MS, 12 * SECOND),
            pause_max: rng.duration(100 * MS, 10 * SECOND),
            stall_max: rng.duration(100 * MS, 5 * SECOND),
        }
    }

    /// The mean time between two faults of a kind, if the seed has any.
    pub(crate) fn every(&self, kind: FaultKind) -> Option<Duration> {
        self.every.get(&kind).copied()
    }

    /// How long a disk is full.
    pub(crate) fn full(rng: &mut Rng) -> Duration {
        rng.duration(SECOND, FULL_MAX)
    }
}

impl FaultMix {
    /// Whether the mix has this kind of fault at all.
    fn has(self, kind: FaultKind) -> bool {
        match self {
            FaultMix::Crashes => {
                let crashes =
                    [FaultKind::Crash, FaultKind::PowerCut, FaultKind::CrashAfterReply, FaultKind::CrashInInstall];
                crashes.contains(&kind)
            }
            FaultMix::Mixed | FaultMix::Swarm => true,
        }
    }
}

impl NetworkFaults {
    fn draw(rng: &mut Rng, mix: FaultMix) -> NetworkFaults {
        // A mean of up to 100 ms would leave little but elections to see in most seeds.
        let delay = if rng.chance(0.25) { rng.duration(MS, 100 * MS) } else { rng.duration(MS / 5, 10 * MS) };
        let drawn = NetworkFaults {
            delay,
            tail: if rng.chance(0.5) { 0.01 } else { 0.0 },
            drop: rate(rng, 0.3),
            duplicate: rate(rng, 0.3),
            duplicate_delay_max: rng.duration(MS, 60 * SECOND),
            in_order: rng.chance(0.5),
            queue_max: if rng.chance(0.25) { 2 + rng.below(63) as usize } else { 4096 },
        };
        if mix == FaultMix::Crashes { NetworkFaults { delay, ..NetworkFaults::none() } } else { drawn }
    }

    /// A network that only takes a little time.
    pub(crate) fn none() -> NetworkFaults {
        NetworkFaults {
            delay: MS,
            tail: 0.0,
            drop: 0.0,
            duplicate: 0.0,
            duplicate_delay_max: MS,
            in_order: true,
            queue_max: 1 << 20,
        }
    }
}

impl DiskFaults {
    fn draw(rng: &mut Rng) -> DiskFaults {
        DiskFaults {
            latency: if rng.chance(0.1) { Duration::ZERO } else { rng.duration(MS / 20, 20 * MS) },
            slow_max: rng.duration(100 * MS, 5 * SECOND),
            torn: 0.5,
        }
    }

    /// A disk that only takes a little time.
    pub(crate) fn none() -> DiskFaults {
        DiskFaults { latency: MS, slow_max: MS, torn: 0.0 }
    }
}

/// A probability: zero with probability one half, or drawn up to `max`, small ones more often.
fn rate(rng: &mut Rng, max: f64) -> f64 {
    let drawn = rng.below(1 << 20) as f64 / (1u64 << 20) as f64;
    if rng.chance(0.5) { max * drawn * drawn } else { 0.0 }
}

/// A duration with the mean `mean`, exponentially distributed and cut off at 20 means.
pub(crate) fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    let uniform = ((rng.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    mean.mul_f64((-natural_logarithm(uniform)).min(20.0))
}

/// The logarithm of a number in (0, 1], by the series of the inverse hyperbolic tangent: `f64::ln` may differ from platform to platform, and with it the whole run.
fn natural_logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | (1023u64 << 52));
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut power = t;
    let mut sum = 0.0;
    for odd in [1.0, 3.0, 5.0, 7.0, 9.0, 11.0] {
        sum += power / odd;
        power *= square;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for i in 1..=1000 {
            let x = f64::from(i) / 1000.0;
            assert!((natural_logarithm(x) - x.ln()).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn exponential_durations_have_their_mean() {
        let mut rng = Rng::new(1);
        let sum: Duration = (0..100_000).map(|_| exponential(&mut rng, MS)).sum();
        let mean = sum / 100_000;
        assert!(mean > MS * 98 / 100 && mean < MS * 102 / 100, "{mean:?}");
    }
}
