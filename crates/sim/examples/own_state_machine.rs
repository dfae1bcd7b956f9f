//! A state machine of one's own under partitions, crashes and everything else.

use bytes::{Buf, Bytes};
use coracle_sim::{Answer, FaultMix, Options, SimpleWorkload, run_with};
use coracle_storage::{InMemory, Machine};

/// Counts its commands, and answers how many there were.
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _command: &[u8]) -> Bytes {
        self.0 += 1;
        self.save()
    }
    fn query(&self, _query: &[u8]) -> Bytes {
        self.save()
    }
    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }
    fn load(&mut self, mut state: &[u8]) -> Result<(), String> {
        self.0 = state.try_get_u64_le().map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// In the order in which they were committed, each command finds more than the one before.
fn each_is_counted(answers: &[Answer]) -> Result<(), String> {
    let commands = answers.iter().filter(|answer| answer.is_command);
    let mut counted: Vec<_> = commands.map(|answer| (answer.index, answer.reply.clone().get_u64_le())).collect();
    counted.sort();
    let is_rising = counted.windows(2).all(|pair| pair[0].1 < pair[1].1);
    if is_rising { Ok(()) } else { Err(format!("commands were lost: {counted:?}")) }
}

/// Twenty seeds; a failure shows what came before it, and how to see it again.
pub(crate) fn main() {
    let options = Options { faults: FaultMix::Swarm, ..Options::default() };
    for seed in 1..=20 {
        let counter = || SimpleWorkload::new(|_| InMemory::new(Counter(0))).clients(3).check(each_is_counted);
        if let Err(failure) = run_with(seed, &options, &|_| Box::new(counter())) {
            panic!("{failure}");
        }
    }
}
