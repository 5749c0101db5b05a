//! `t3fs-node stats`: what a running process has handled so far, and how long it took.

use crate::cli::StatsArgs;
use crate::config;
use crate::control;
use crate::failure::{Failure, failed};
use crate::logging::tell;
use crate::node::meters::Stats;
use crate::running::{home_of, only_home};

pub fn run(args: &StatsArgs) -> Result<(), Failure> {
    let home = match &args.place {
        Some(place) => home_of(place)?,
        None => only_home(&config::load(config::Flags::default())?.0)?
            .ok_or_else(|| failed("no t3fs-node is running here; name a mount or a folder"))?,
    };
    let stats: Stats = control::ask_for(&home, "stats")?;
    match args.json {
        true => tell(&serde_json::to_string(&stats).expect("texts and numbers")),
        false => render(&stats).iter().for_each(|line| tell(line)),
    }
    Ok(())
}

/// A table of messages, and the stages below it.
fn render(stats: &Stats) -> Vec<String> {
    // An answer that is an error is an answer all the same: a name that is not there, and so on.
    let head = [
        "message",
        "handled",
        "errors",
        "late",
        "mean us",
        "p50 us <",
        "p99 us <",
        "max us",
        "bytes in",
        "bytes out",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(stats.messages.iter().map(|m| {
        let numbers = [
            m.handled,
            m.failed,
            m.late,
            m.mean_us,
            m.p50_us,
            m.p99_us,
            m.max_us,
            m.bytes_in,
            m.bytes_out,
        ];
        let mut row = vec![m.message.clone()];
        row.extend(numbers.map(|n| n.to_string()));
        row.try_into().expect("ten columns")
    }));
    let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    let mut out: Vec<String> = rows.iter().map(line).collect();
    out.extend(stats.stages.iter().map(|s| format!("{}: {}", s.stage, s.count)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::meters::{MessageRow, StageRow};

    #[test]
    fn columns_stand_below_each_other() {
        let row = |message: &str, n: u64| MessageRow {
            message: message.into(),
            handled: n,
            failed: 0,
            late: 0,
            mean_us: n,
            p50_us: 1,
            p99_us: 2,
            max_us: 3,
            bytes_in: n,
            bytes_out: 0,
        };
        let stats = Stats {
            version: "1".into(),
            shards: 1,
            messages: vec![row("Kv::GetKeys", 123_456), row("Meta::Look", 7)],
            stages: vec![StageRow { stage: "a".into(), count: 5 }],
        };
        let lines = render(&stats);
        assert_eq!(lines.len(), 4);
        assert!(lines[..3].iter().all(|l| l.len() == lines[0].len()), "{lines:#?}");
        assert_eq!(lines[3], "a: 5");
    }
}
