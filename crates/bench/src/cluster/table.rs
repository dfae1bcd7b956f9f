//! The tables, in Markdown, as the documentation shows them.

use super::{
    floor::Floor,
    load::Sample,
    rows::{Aim, Row},
    system::Kind,
};
use crate::measure::Spread;

/// The head of the table of figures.
pub(crate) const HEAD: &str = "\
| Work | System | ops/s (min to max) | p50 ms | p99 ms | servers' CPU us per op (min to max) | of etcd's ops per CPU second | MiB per server, leader first | switches per op | write calls per op | flushes of the disk per op | clients' CPU us per op |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The head of the table of aims.
pub(crate) const AIMS_HEAD: &str = "| Work | System | Aim | Measured (min to max) | Reached |\n|---|---|---|---|---|\n";

/// What all rounds of a row gave.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    /// Each system's samples, one of each round.
    pub(crate) systems: Vec<(Kind, Vec<Sample>)>,
    /// One of each round, where the aim needs it.
    pub(crate) floors: Vec<Floor>,
}

impl Measured {
    /// Its lines of the table of figures.
    pub(crate) fn render(&self) -> String {
        self.systems.iter().map(|(kind, samples)| self.line(kind, samples)).collect()
    }

    fn line(&self, kind: &Kind, samples: &[Sample]) -> String {
        let of = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
        let per_second = of(|sample| sample.per_second);
        let cpu = of(|sample| sample.cpu * 1e6);
        let flushes = of(|sample| sample.flushes.unwrap_or(f64::NAN)).median;
        let memory: Vec<String> =
            samples.last().iter().flat_map(|sample| &sample.memory).map(|bytes| mebibytes(*bytes)).collect();
        let ratio = self.of_etcd(samples).filter(|_| *kind != Kind::Etcd);
        format!(
            "| {} | {} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.2} | {:.1} ({:.1} to {:.1}) | {} | {} | {:.2} | {:.2} | {} | {:.1} |\n",
            self.row.title,
            kind.name(),
            per_second.median,
            per_second.min,
            per_second.max,
            of(|sample| sample.p50 * 1e3).median,
            of(|sample| sample.p99 * 1e3).median,
            cpu.median,
            cpu.min,
            cpu.max,
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.2}", ratio.median)),
            memory.join(", "),
            of(|sample| sample.switches).median,
            of(|sample| sample.writes).median,
            if flushes.is_nan() { "-".to_owned() } else { format!("{flushes:.2}") },
            of(|sample| sample.client_cpu * 1e6).median,
        )
    }

    /// How many times etcd's operations per second of CPU time these are, round by round.
    fn of_etcd(&self, samples: &[Sample]) -> Option<Spread> {
        let (_, etcd) = self.systems.iter().find(|(kind, _)| *kind == Kind::Etcd)?;
        Some(Spread::of(etcd.iter().zip(samples).map(|(etcd, ours)| etcd.cpu / ours.cpu)))
    }

    /// The floor, in words, if it was measured.
    pub(crate) fn floor(&self) -> Option<String> {
        if self.floors.is_empty() {
            return None;
        }
        let of = |value: fn(&Floor) -> f64| Spread::of(self.floors.iter().map(value)).median * 1e6;
        Some(format!(
            "The floor of a put by 1 client: {:.0} us, of which a sync while three processes sync takes {:.0} and a round trip {:.0}; medians of {} rounds.",
            of(Floor::put),
            of(|floor| floor.sync),
            of(|floor| floor.round_trip),
            self.floors.len()
        ))
    }

    /// Its lines of the table of aims.
    pub(crate) fn render_aims(&self) -> String {
        let ours = self.systems.iter().filter(|(kind, _)| kind.is_coracle());
        ours.map(|(kind, samples)| self.aim_line(kind, samples)).collect()
    }

    fn aim_line(&self, kind: &Kind, samples: &[Sample]) -> String {
        let (aim, measured, is_reached) = match self.row.aim {
            Aim::Floor(times) => {
                let rounds = self.floors.iter().zip(samples).map(|(floor, sample)| sample.p50 / floor.put());
                let measured = (!self.floors.is_empty()).then(|| Spread::of(rounds));
                let aim = format!("p50 at most {times} times the floor");
                (aim, measured, measured.is_some_and(|measured| measured.median <= times))
            }
            Aim::Etcd(times) => {
                let measured = self.of_etcd(samples);
                let aim = format!("{times} times etcd's ops per CPU second");
                (aim, measured, measured.is_some_and(|measured| measured.median >= times))
            }
        };
        let (shown, reached) = match measured {
            Some(Spread { min, median, max }) => {
                (format!("{median:.2} ({min:.2} to {max:.2})"), if is_reached { "yes" } else { "no" })
            }
            None => ("-".to_owned(), "not measured without --against etcd"),
        };
        format!("| {} | {} | {aim} | {shown} | {reached} |\n", self.row.title, kind.name())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rows::ROWS;

    fn sample(p50: f64, cpu: f64) -> Sample {
        let (per_second, p99, switches, writes) = (1000.0, 0.02, 3.0, 4.0);
        Sample {
            per_second,
            p50,
            p99,
            cpu,
            switches,
            writes,
            flushes: None,
            client_cpu: 0.000_01,
            memory: vec![5 << 20, 6 << 20],
        }
    }

    fn coracle() -> Kind {
        Kind::Coracle { storage: "file:DIR".to_owned() }
    }

    #[test]
    fn a_line_stands_beside_etcds() {
        let systems = vec![(coracle(), vec![sample(0.001, 0.000_02)]), (Kind::Etcd, vec![sample(0.002, 0.000_1)])];
        let measured = Measured { row: ROWS[1], systems, floors: Vec::new() };
        let text = measured.render();
        let expected = "| put, 64 | coracle file:DIR | 1000 (1000 to 1000) | 1.00 | 20.00 | 20.0 (20.0 to 20.0) | 5.00 | 5, 6 | 3.00 | 4.00 | - | 10.0 |\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("| put, 64 | etcd | 1000 (1000 to 1000) | 2.00 | 20.00 | 100.0 (100.0 to 100.0) | - |"),
            "{text}"
        );
        let aims = measured.render_aims();
        assert_eq!(
            aims,
            "| put, 64 | coracle file:DIR | 4 times etcd's ops per CPU second | 5.00 (5.00 to 5.00) | yes |\n"
        );
    }

    #[test]
    fn an_aim_is_missed_by_the_median_of_all_rounds() {
        let floor = Floor { sync: 0.000_1, round_trip: 0.000_05 };
        let samples = [0.000_2, 0.000_4, 0.000_5].map(|p50| sample(p50, 0.000_1)).to_vec();
        let measured = Measured { row: ROWS[0], systems: vec![(coracle(), samples)], floors: vec![floor; 3] };
        let aims = measured.render_aims();
        assert!(aims.ends_with("| p50 at most 1.5 times the floor | 2.00 (1.00 to 2.50) | no |\n"), "{aims}");
        assert!(
            measured
                .floor()
                .unwrap()
                .contains("200 us, of which a sync while three processes sync takes 100 and a round trip 50")
        );
    }

    #[test]
    fn without_etcd_its_aims_are_not_measured() {
        let measured =
            Measured { row: ROWS[1], systems: vec![(coracle(), vec![sample(0.1, 0.1)])], floors: Vec::new() };
        assert!(measured.render_aims().contains("not measured"), "{}", measured.render_aims());
    }
}
