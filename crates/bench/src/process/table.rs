//! The table of a benchmark of whole processes, in Markdown, as the documentation shows it.

use std::fmt::Write;

use super::Counted;
use crate::measure::Spread;

/// The name of Coracle's rows.
pub(super) const OURS: &str = "coracle";

/// One subject at one load.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    /// Operations per second.
    pub(super) throughput: Spread,
    /// Microseconds of CPU per operation.
    pub(super) cpu: Spread,
    /// Latencies in microseconds.
    pub(super) p50: Spread,
    pub(super) p99: Spread,
    pub(super) counted: Counted,
}

/// All rows, and for each load what Coracle's throughput is of a peer's.
pub(super) fn render(rows: &[Row]) -> String {
    let mut out = String::from(
        "| Clients | Implementation | Operations/s (min to max) | of the peer's | CPU us per operation (min to max) | p50 us | p99 us | allocations | bytes allocated |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { name, clients, throughput, cpu, p50, p99, counted } = row;
        let ratio = ratio(row, rows).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {clients} | {name} | {:.0} ({:.0} to {:.0}) | {ratio} | {:.2} ({:.2} to {:.2}) | {:.1} | {:.1} | {:.2} | {:.0} |",
            throughput.median,
            throughput.min,
            throughput.max,
            cpu.median,
            cpu.min,
            cpu.max,
            p50.median,
            p99.median,
            counted.allocations,
            counted.bytes
        );
    }
    out
}

/// Coracle's throughput as a multiple of the peer's at the same load.
fn ratio(row: &Row, rows: &[Row]) -> Option<f64> {
    let peer = rows.iter().find(|peer| peer.clients == row.clients && peer.name != OURS)?;
    (row.name == OURS).then(|| row.throughput.median / peer.throughput.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_how_many_times_the_peers_operations_it_has() {
        let row = |name, throughput| Row {
            name,
            clients: 64,
            throughput: Spread::of([throughput]),
            cpu: Spread::of([1.5]),
            p50: Spread::of([10.0]),
            p99: Spread::of([20.0]),
            counted: Counted { allocations: 2.5, bytes: 100.0 },
        };
        let text = render(&[row(OURS, 300.0), row("other", 100.0)]);
        let ours = "| 64 | coracle | 300 (300 to 300) | 3.00 | 1.50 (1.50 to 1.50) | 10.0 | 20.0 | 2.50 | 100 |";
        assert!(text.contains(ours), "{text}");
        assert!(text.contains("| 64 | other | 100 (100 to 100) | - |"), "{text}");
    }
}
