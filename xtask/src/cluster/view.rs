//! What is shown while it runs.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    demo::Progress,
    node::Node,
    state::{State, is_of},
};

/// A bar and a line per node on a terminal; elsewhere only what is said.
pub(super) struct View {
    all: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    is_live: bool,
}

impl View {
    pub(super) fn new(is_live: bool, nodes: &[Node]) -> View {
        let target = if is_live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let line = |_: &Node| all.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        let lines = nodes.iter().map(line).collect();
        let bar = all.add(ProgressBar::new(0).with_style(style("{bar:40} {pos}/{len} words  {msg}  {elapsed}")));
        View { all, bar, lines, is_live }
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        if !self.is_live || self.all.println(text).is_err() {
            println!("{text}");
        }
    }

    /// Shows how far the counting is.
    pub(super) fn count(&self, progress: &Progress) {
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.bar.set_message(format!("{:.0}/s", progress.ops_per_second));
    }

    /// Shows the nodes.
    pub(super) fn show(&self, nodes: &[Node], states: &[State]) {
        for (node, line) in nodes.iter().zip(&self.lines) {
            let state = states.iter().find(|state| is_of(state, node));
            line.set_message(described(node, state));
        }
    }

    /// The counting is over: the bar goes, the nodes' lines stay.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file, which its test parses.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn described(node: &Node, state: Option<&State>) -> String {
    let head = format!("node {}  {}", node.number, node.ports.endpoint());
    match state.filter(|state| state.is_up) {
        Some(state) => format!(
            "{head}  {:<13}  term {:<4} commit {:<8} applied {:<8}{}",
            state.role,
            state.term,
            state.commit,
            state.applied,
            if state.leads { " *" } else { "" }
        ),
        None if node.is_running() => format!("{head}  does not answer yet"),
        None => format!("{head}  down"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_parse() {
        for template in ["{msg}", "{bar:40} {pos}/{len} words  {msg}  {elapsed}"] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
