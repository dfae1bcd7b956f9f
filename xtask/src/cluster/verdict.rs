//! What is printed at the end.

use super::{play::Ending, view::View};

const DIFFERENCES_SHOWN: usize = 20;

pub(super) fn print(ending: &Ending, view: &View) {
    for line in lines(ending) {
        view.say(&line);
    }
}

fn lines(ending: &Ending) -> Vec<String> {
    let outcome = &ending.outcome;
    let latency = &outcome.latency_ms;
    let top: Vec<String> = outcome.top.iter().map(|(word, count)| format!("{word} {count}")).collect();
    let mut lines = vec![
        String::new(),
        format!("top words: {}", top.join(", ")),
        format!("throughput: {:.0} words/s over {:.1} s", outcome.ops_per_second, outcome.seconds),
        format!(
            "latency: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            latency.p50, latency.p90, latency.p99, latency.max
        ),
        story(ending),
    ];
    lines.extend(comeback(ending));
    lines.extend(counts(ending));
    lines
}

fn story(ending: &Ending) -> String {
    let Some((number, done)) = ending.killed else {
        return "FAILED: no leader was killed: the counting was over before; give it more text with --input".to_owned();
    };
    let after = ending.last_leader.map(|(leader, term)| format!("; node {leader} leads in term {term}"));
    format!(
        "node {number} was killed as the leader at word {done}; writes stood still for {:.0} ms{}",
        ending.outcome.interrupted_ms,
        after.unwrap_or_default()
    )
}

fn comeback(ending: &Ending) -> Option<String> {
    let (number, _) = ending.killed?;
    Some(match &ending.caught_up {
        None => format!("FAILED: node {number} did not come back"),
        Some(Ok(applied)) if ending.is_new => {
            format!("node {number} came back as a new node, votes and has caught up: it has applied {applied}")
        }
        Some(Ok(applied)) => format!("node {number} was restarted and has caught up: it has applied {applied}"),
        Some(Err(error)) => format!("FAILED: node {number} was restarted and did not catch up: {error:#}"),
    })
}

fn counts(ending: &Ending) -> Vec<String> {
    let outcome = &ending.outcome;
    if outcome.equal {
        return vec![format!("counts equal to the last word: {} words, {} distinct", outcome.words, outcome.distinct)];
    }
    let mut lines = vec![format!("FAILED: counts differ for {} words:", outcome.differences.len())];
    lines.extend(outcome.differences.iter().take(DIFFERENCES_SHOWN).map(|difference| format!("  {difference}")));
    lines
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use serde_json::json;

    use super::*;

    fn ending(equal: bool) -> Ending {
        let outcome = json!({
            "equal": equal, "words": 10, "distinct": 3, "seconds": 1.5, "ops_per_second": 6.7,
            "latency_ms": {"p50": 1, "p90": 2, "p99": 3.5, "max": 4}, "interrupted_ms": 1200,
            "top": [["the", 5]], "differences": if equal { json!([]) } else { json!([{"word": "the", "found": 4}]) },
        });
        Ending {
            outcome: serde_json::from_value(outcome).unwrap(),
            killed: Some((2, 5)),
            is_new: false,
            caught_up: Some(Ok(14)),
            last_leader: Some((1, 3)),
        }
    }

    #[test]
    fn a_good_ending_says_that_counts_are_equal_and_last() {
        let ending = ending(true);
        assert!(ending.is_good());
        let lines = lines(&ending);
        assert_eq!(lines.last().unwrap(), "counts equal to the last word: 10 words, 3 distinct");
        assert!(lines.iter().any(|line| line.contains("writes stood still for 1200 ms; node 1 leads in term 3")));
    }

    #[test]
    fn a_difference_a_missing_kill_and_a_node_left_behind_each_fail() {
        assert!(!ending(false).is_good());
        assert!(lines(&ending(false)).iter().any(|line| line.contains(r#""word":"the""#)));
        let unkilled = Ending { killed: None, caught_up: None, ..ending(true) };
        assert!(!unkilled.is_good());
        let renewed = lines(&Ending { is_new: true, ..ending(true) });
        assert!(renewed.iter().any(|line| line.contains("node 2 came back as a new node")), "{renewed:?}");
        let behind = Ending { caught_up: Some(Err(anyhow!("too slow"))), ..ending(true) };
        assert!(!behind.is_good());
    }
}
