//! Plots as SVG: lines over a pair of axes, and what the lines are.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 6] = ["#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#64473a", "#6940a5"];

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By their order of magnitude.
    Log,
}

/// One axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What it shows, and in which unit.
    pub label: &'static str,
    /// How.
    pub scale: Scale,
}

/// One line: its name, and its points from left to right.
pub type Line = (String, Vec<(f64, f64)>);

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What stands above.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Plot {
    /// Writes it into a folder, which is made if it is missing, and says where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, self.render())?;
        Ok(path)
    }

    /// The SVG.
    pub fn render(&self) -> String {
        let of = |pick: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(move |(_, points)| points.iter().map(pick));
        let x = Range::of(self.x.scale, of(|point| point.0));
        let y = Range::of(self.y.scale, of(|point| point.1));
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut out, (WIDTH / 2.0, TOP - 16.0), "middle", &self.title);
        text(&mut out, (WIDTH / 2.0, HEIGHT - 14.0), "middle", self.x.label);
        text(&mut out, (8.0, TOP - 16.0), "start", self.y.label);
        for tick in x.ticks() {
            let at = across(x.part(tick));
            grid(&mut out, (at, TOP), (at, HEIGHT - BOTTOM));
            text(&mut out, (at, HEIGHT - BOTTOM + 18.0), "middle", &short(tick));
        }
        for tick in y.ticks() {
            let at = up(y.part(tick));
            grid(&mut out, (LEFT, at), (WIDTH - RIGHT, at));
            text(&mut out, (LEFT - 6.0, at + 4.0), "end", &short(tick));
        }
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let places: Vec<_> = points.iter().map(|point| (across(x.part(point.0)), up(y.part(point.1)))).collect();
            line(&mut out, colour, &places);
            let at = TOP + 14.0 + 16.0 * number as f64;
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>",
                LEFT + 8.0,
                at - 5.0
            );
            text(&mut out, (LEFT + 26.0, at), "start", name);
        }
        out.push_str("</svg>\n");
        out
    }
}

/// From where to where an axis goes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Range {
    /// One that holds all values; those that a scale has no place for are left out.
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Range {
        let placed: Vec<f64> = values.filter(|value| scale == Scale::Linear || *value > 0.0).collect();
        let least = placed.iter().copied().fold(f64::INFINITY, f64::min);
        let most = placed.iter().copied().fold(0.0, f64::max);
        match scale {
            _ if placed.is_empty() => Range { scale, from: scale_from(scale), to: 10.0 },
            Scale::Linear => Range { scale, from: 0.0, to: if most > 0.0 { most * 1.1 } else { 1.0 } },
            Scale::Log => {
                let (from, to) = (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()));
                Range { scale, from, to: if to > from { to } else { from * 10.0 } }
            }
        }
    }

    /// Where a value lies, from 0 to 1.
    fn part(self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value.max(self.from).log10() - self.from.log10()) / (self.to.log10() - self.from.log10()),
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = self.to / 6.0;
                let power = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                (0..).map(|number| step * f64::from(number)).take_while(|tick| *tick <= self.to).collect()
            }
            Scale::Log => {
                let powers = self.from.log10().round() as i32..=self.to.log10().round() as i32;
                powers.map(|power| 10_f64.powi(power)).collect()
            }
        }
    }
}

fn scale_from(scale: Scale) -> f64 {
    if scale == Scale::Log { 1.0 } else { 0.0 }
}

fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn up(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn grid(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>");
}

fn line(out: &mut String, colour: &str, places: &[(f64, f64)]) {
    let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
        points.join(" ")
    );
    // Points that lie close together are a line already.
    for (x, y) in places.iter().filter(|_| places.len() <= 40) {
        let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
}

/// A number with at most four characters: 1500 is 1.5k.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = format!("{scaled:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_where_the_scale_says() {
        let linear = Range::of(Scale::Linear, [50.0, 100.0].into_iter());
        assert!((linear.part(55.0) - 0.5).abs() < 1e-9);
        assert_eq!(linear.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let log = Range::of(Scale::Log, [2.0, 0.0, 5000.0].into_iter());
        assert_eq!((log.from, log.to), (1.0, 10_000.0));
        assert!((log.part(100.0) - 0.5).abs() < 1e-9);
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    }

    #[test]
    fn nothing_and_one_point_can_be_plotted() {
        for points in [Vec::new(), vec![(1.0, 1.0)], vec![(0.0, 0.0)]] {
            for scale in [Scale::Linear, Scale::Log] {
                let axis = Axis { label: "x", scale };
                let plot =
                    Plot { title: "a < b".to_owned(), x: axis, y: axis, lines: vec![("l".to_owned(), points.clone())] };
                let svg = plot.render();
                assert!(svg.ends_with("</svg>\n") && svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.25, 1.0, 1500.0, 2e6].map(short);
        assert_eq!(shown, ["0.25", "1", "1.5k", "2M"]);
    }
}
