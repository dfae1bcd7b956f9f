//! Checks that every transport must pass, for authors of adapters: one call.
//!
//! [`transport`] takes a [`Factory`], runs each check with new transports on new addresses, and panics with the name of the first check that fails and with what the transport did wrong.
//! It needs a tokio runtime with time and I/O, of either flavour.
//! Nothing in it waits for a fixed time: each condition has a deadline, far beyond what a transport needs, so that a busy machine is not mistaken for a broken transport.
//!
//! Whoever breaks and slows connections has to stand between the two ends.
//! Where addresses are TCP the suite puts a proxy there by itself; [`Factory::cut`] is for the others.
//! What cannot be checked without is in [`Report::skipped`]: compare it, so that nothing is left out unseen.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use coracle_transport::{Address, Transport, conformance::{self, Factory}};
//! struct Mine<F>(F);
//!
//! impl<F: Fn() -> Arc<dyn Transport> + Send + Sync> Factory for Mine<F> {
//!     fn transport(&self) -> Arc<dyn Transport> {
//!         (self.0)()
//!     }
//!     fn bind(&self) -> Address {
//!         "/ip4/127.0.0.1/tcp/0".parse().expect("an address")
//!     }
//! }
//!
//! # async fn test(my_transport: impl Fn() -> Arc<dyn Transport> + Send + Sync + 'static) {
//! let report = conformance::transport(Mine(my_transport)).await;
//! assert!(report.skipped.is_empty());
//! # }
//! ```

mod addresses;
mod closing;
mod cuts;
mod frames;
mod groups;
mod handshake;
mod messages;
mod pressure;
mod process;
mod proxy;
mod questions;
mod snapshots;

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use crate::{Address, Transport};

/// How transports under test are made, and what the suite has to know of them.
pub trait Factory: Send + Sync {
    /// A transport that does not listen yet, as if in a process of its own.
    /// Whatever it waits for, such as another attempt to connect, should be short: the suite breaks connections all the time.
    fn transport(&self) -> Arc<dyn Transport>;

    /// An address to listen on that nobody else uses; port 0 lets the system choose.
    fn bind(&self) -> Address;

    /// The largest frame, in bytes of the wire, about: half of it has to pass, twice of it must not.
    /// `None` when there is no limit, because nothing is copied.
    fn frame_bytes_max(&self) -> Option<usize> {
        Some(8 << 20)
    }

    /// Breaks the connections between the processes at two addresses, and lets no other come about, until [`Factory::mend`].
    /// Returns whether it can: by default it cannot, and a proxy is used if the addresses are TCP.
    fn cut(&self, a: &Address, b: &Address) -> bool {
        let _ = (a, b);
        false
    }

    /// Undoes [`Factory::cut`].
    fn mend(&self, a: &Address, b: &Address) {
        let _ = (a, b);
    }
}

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// The names of the checks that passed.
    pub passed: Vec<&'static str>,
    /// The names of the checks for which this suite cannot get between the two ends.
    pub skipped: Vec<&'static str>,
}

/// How a check ended that did not panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// There is no way to break, or to slow, these connections.
    Skipped,
}

/// A check that hangs is a check that fails.
const CHECK_TIME_MAX: Duration = Duration::from_secs(120);

macro_rules! run {
    ($report:ident, $factory:ident: $($module:ident::{$($check:ident),+ $(,)?}),+ $(,)?) => {
        $($(
            let name = concat!(stringify!($module), "::", stringify!($check));
            let factory = $factory.clone();
            let verdict = judged(name, async move { $module::$check(factory.as_ref()).await }).await;
            match verdict {
                Verdict::Passed => $report.passed.push(name),
                Verdict::Skipped => $report.skipped.push(name),
            }
        )+)+
    };
}

/// Runs every check against transports that `factory` makes.
///
/// # Panics
/// When the transport breaks a rule: the message names the check and the rule.
pub async fn transport(factory: impl Factory + 'static) -> Report {
    let factory: Arc<dyn Factory> = Arc::new(factory);
    let mut report = Report::default();
    run!(report, factory:
        frames::{in_order_both_ways, every_message_arrives_as_it_was, a_large_frame_passes, an_oversized_frame_is_dropped_alone, what_was_sent_is_counted},
        handshake::{every_refusal_reaches_the_refused, a_refusal_is_not_for_ever, who_is_not_admitted_is_not_sent_to, another_incarnation_is_a_stranger, another_node_is_a_stranger, groups_are_admitted_apart},
        groups::{many_groups_and_nodes_share_a_connection, a_group_that_comes_later, a_group_that_is_taken_away, frames_for_absent_groups_are_dropped_alone},
        addresses::{the_next_address_is_tried, a_peer_that_moves, a_peer_that_is_removed, nobody_is_unreachable, who_is_not_there_is_reported, addresses_that_cannot_be_listened_on},
        cuts::{a_restarted_peer_is_reached_again, a_cut_is_reported_and_mended, nothing_is_repeated_or_reordered_over_cuts, connections_cut_at_every_byte, frames_split_at_every_byte},
        pressure::{a_host_that_does_not_read_fills_the_queue, a_slow_reader_does_not_hold_up_others},
        snapshots::{a_snapshot_resumes_after_a_cut},
        questions::{answers_come_without_admission, many_questions_at_once, large_questions_and_answers, questions_that_cannot_be_answered},
        closing::{what_is_queued_is_written, after_the_end_nothing_goes, others_notice_the_end, the_end_does_not_wait_for_who_does_not_read},
    );
    report
}

/// Runs a check in a task of its own, so that its panic can be told by name.
async fn judged(name: &str, check: impl Future<Output = Verdict> + Send + 'static) -> Verdict {
    let mut task = tokio::spawn(check);
    match tokio::time::timeout(CHECK_TIME_MAX, &mut task).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => panic!("the transport fails {name}: {}", reason(error)),
        Err(_) => {
            task.abort();
            panic!("the transport fails {name}: it did not end within {CHECK_TIME_MAX:?}")
        }
    }
}

fn reason(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "its task was cancelled".to_owned() };
    let panic: &(dyn Any + Send) = panic.as_ref();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}
