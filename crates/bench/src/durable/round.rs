//! Rounds of writes, and what they gave.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{Entry, GroupId, Index, Run, Term};
use coracle_storage::LogBatch;
use cpu_time::ProcessTime;

use super::subject::Subject;
use crate::counting::{self, Allocated};

/// What each write holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) entry_bytes: usize,
    /// Entries in one write.
    pub(super) batch: usize,
}

/// Writes between two looks at the CPU's clock; their batches are made before.
const CHUNK: usize = 16;
/// A round ends when it has written so much: on a disk in memory there would be no end.
const ROUND_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Writes whose allocations are counted.
const COUNTED: usize = 320;

/// What one round gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) writes_per_second: f64,
    /// Microseconds of the whole process's CPU per write.
    pub(super) cpu: f64,
    /// The slowest write.
    pub(super) slowest: Duration,
}

/// A subject, and what was measured of it.
pub(super) struct Writer {
    pub(super) name: &'static str,
    pub(super) load: Load,
    pub(super) rounds: Vec<Round>,
    /// Of every write, in nanoseconds.
    pub(super) latencies: Vec<u64>,
    /// Calls of the allocator per write.
    pub(super) allocations: f64,
    subject: Box<dyn Subject>,
    data: Bytes,
    next: Index,
}

impl Writer {
    pub(super) fn new(name: &'static str, subject: Box<dyn Subject>, load: Load) -> Writer {
        // All values of a byte, in no order that compresses well.
        let data = (0..load.entry_bytes).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let (rounds, latencies) = (Vec::new(), Vec::new());
        Writer { name, load, rounds, latencies, allocations: 0.0, subject, data, next: Index(1) }
    }

    /// The next writes.
    fn chunk(&mut self) -> Vec<LogBatch> {
        let batch = |_| {
            let entries = vec![Entry::command(self.data.clone()); self.load.batch];
            let run = Run::new(self.next, Term(1), entries);
            self.next = run.last().next();
            LogBatch::append(GroupId(1), vec![run])
        };
        (0..CHUNK).map(batch).collect()
    }

    /// Writes for so long.
    pub(super) fn round(&mut self, duration: Duration) -> io::Result<()> {
        self.subject.prepare(ROUND_BYTES_MAX)?;
        let chunk_bytes = (CHUNK * self.load.batch * self.load.entry_bytes) as u64;
        let (mut wall, mut cpu, mut slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let (mut bytes, mut writes) = (0, 0);
        while wall < duration && bytes + chunk_bytes <= ROUND_BYTES_MAX {
            let batches = self.chunk();
            self.latencies.reserve(CHUNK);
            let (chunk_cpu, chunk_wall) = (ProcessTime::now(), Instant::now());
            for batch in &batches {
                let begun = Instant::now();
                self.subject.write(batch)?;
                let took = begun.elapsed();
                slowest = slowest.max(took);
                self.latencies.push(took.as_nanos() as u64);
            }
            wall += chunk_wall.elapsed();
            cpu += chunk_cpu.elapsed();
            (bytes, writes) = (bytes + chunk_bytes, writes + CHUNK);
        }
        let per_write = |took: Duration| took.as_secs_f64() / writes as f64;
        self.rounds.push(Round { writes_per_second: 1.0 / per_write(wall), cpu: per_write(cpu) * 1e6, slowest });
        Ok(())
    }

    /// Counts what is allocated per write.
    pub(super) fn count(&mut self) -> io::Result<()> {
        let mut allocations = 0;
        for _ in 0..COUNTED / CHUNK {
            let batches = self.chunk();
            let mut written = Ok(());
            let Allocated { allocations: counted, .. } =
                counting::count(|| written = batches.iter().try_for_each(|batch| self.subject.write(batch)));
            written?;
            allocations += counted;
        }
        self.allocations = allocations as f64 / COUNTED as f64;
        Ok(())
    }

    /// Forgets what was measured so far, but not what was counted.
    pub(super) fn forget(&mut self) {
        self.rounds.clear();
        self.latencies.clear();
    }
}
