//! The table of a benchmark of the core, in Markdown, as the documentation shows it.

use std::fmt::Write;

use crate::measure::{Counted, Spread};

/// The name of Coracle's rows.
pub const OURS: &str = "coracle-core";

/// One implementation at one load.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which implementation.
    pub name: &'static str,
    /// How many entries are in flight.
    pub in_flight: usize,
    /// CPU nanoseconds per entry.
    pub cpu: Spread,
    /// Wall nanoseconds per entry.
    pub wall: Spread,
    /// What does not depend on the machine.
    pub counted: Counted,
}

/// All rows, and for each load what Coracle's CPU time is of a peer's.
pub fn render(rows: &[Row]) -> String {
    let mut out = String::from(
        "| In flight | Implementation | CPU ns per entry (min to max) | of the peer's | wall ns | allocations | bytes allocated | messages |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { name, in_flight, cpu, wall, counted, .. } = row;
        let ratio = ratio(row, rows).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {in_flight} | {name} | {:.0} ({:.0} to {:.0}) | {ratio} | {:.0} | {:.2} | {:.0} | {:.3} |",
            cpu.median, cpu.min, cpu.max, wall.median, counted.allocations, counted.bytes, counted.messages
        );
    }
    out
}

/// Coracle's CPU time as a part of the peer's at the same load.
fn ratio(row: &Row, rows: &[Row]) -> Option<f64> {
    let peer = rows.iter().find(|peer| peer.in_flight == row.in_flight && peer.name != OURS)?;
    (row.name == OURS).then(|| row.cpu.median / peer.cpu.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_its_part_of_the_peers_cpu_time() {
        let row = |name, cpu| Row {
            name,
            in_flight: 16,
            cpu: Spread::of([cpu]),
            wall: Spread::of([cpu]),
            counted: Counted { allocations: 1.5, bytes: 100.0, messages: 0.25 },
        };
        let text = render(&[row(OURS, 25.0), row("other", 100.0)]);
        assert!(text.contains("| 16 | coracle-core | 25 (25 to 25) | 0.25 | 25 | 1.50 | 100 | 0.250 |"), "{text}");
        assert!(text.contains("| 16 | other | 100 (100 to 100) | - |"), "{text}");
    }
}
