//! Medians of all samples, as one table that reads the same on a terminal and in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::meter::Sample;
use super::plan::{Beside, Row, Unit};

/// Samples by row and place; places are numbered as in `Places::all`.
#[derive(Default)]
pub struct Results {
    samples: BTreeMap<(String, usize), Vec<Sample>>,
}

/// Rate and core time per operation.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    rate: f64,
    core_us: f64,
}

const HEADINGS: [&str; 7] =
    ["row", "folder", "t3fs", "nullfs", "t3fs/folder", "t3fs/nullfs", "target"];

impl Results {
    pub fn add(&mut self, place: usize, samples: Vec<Sample>) {
        for sample in samples {
            self.samples.entry((sample.row.clone(), place)).or_default().push(sample);
        }
    }

    fn cell(&self, row: &Row, place: usize) -> Option<Cell> {
        let samples = self.samples.get(&(row.name.clone(), place))?;
        let median_of = |value: &dyn Fn(&Sample) -> f64| median(samples.iter().map(value));
        let rate = match row.unit {
            Unit::MegabytesPerSecond => median_of(&Sample::megabytes_per_second),
            Unit::OperationsPerSecond => median_of(&Sample::operations_per_second),
        };
        Some(Cell { rate, core_us: median_of(&Sample::core_us_per_operation) })
    }

    /// The table, and whether every target in it was reached; `targets` is false for a set-up that
    /// they were not set for.
    pub fn render(&self, rows: &[Row], targets: bool) -> (String, bool) {
        let mut lines = vec![HEADINGS.map(str::to_owned)];
        let mut all_reached = true;
        for row in rows {
            let [folder, t3fs, nullfs] = [0, 1, 2].map(|place| self.cell(row, place));
            let ratio = |other: Option<Cell>| Some(t3fs?.rate / other?.rate);
            let (to_folder, to_nullfs) = (ratio(folder), ratio(nullfs));
            let target = row.target().filter(|_| targets).map_or(String::new(), |target| {
                let (name, reached) = match target.beside {
                    Beside::Folder => ("folder", to_folder),
                    Beside::Nullfs => ("nullfs", to_nullfs),
                };
                let verdict = match reached {
                    Some(ratio) if ratio >= target.ratio => "ok",
                    Some(_) => "MISS",
                    None => "-",
                };
                all_reached &= verdict != "MISS";
                format!(">= {} {name}: {verdict}", target.ratio)
            });
            let unit = match row.unit {
                Unit::MegabytesPerSecond => "MB/s",
                Unit::OperationsPerSecond => "/s",
            };
            let rate = |cell: Option<Cell>| cell.map_or("-".to_owned(), |cell| cell.text(unit));
            let part = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
            lines.push([
                row.name.clone(),
                rate(folder),
                rate(t3fs),
                rate(nullfs),
                part(to_folder),
                part(to_nullfs),
                target,
            ]);
        }
        (columns(&lines), all_reached)
    }
}

impl Cell {
    fn text(self, unit: &str) -> String {
        let us = if self.core_us < 100.0 { 1 } else { 0 };
        format!("{:.0} {unit} ({:.us$} us)", self.rate, self.core_us)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1].midpoint(values[middle]) }
}

/// Pads all columns to the same width: the first and last to the left, numbers to the right.
fn columns(lines: &[[String; 7]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let last = widths.len() - 1;
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                column if column == last => write!(text, "| {cell:<width$} |"),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push('\n');
        if number == 0 {
            for (column, width) in widths.into_iter().enumerate() {
                let mark = if column == 0 || column == last { "-" } else { ":" };
                let _ = write!(text, "|{}{mark}", "-".repeat(width + 1));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    //! Goal: medians, ratios and verdicts are right. Method: hand-made samples of one row.
    use super::*;

    fn results(rates: [u64; 3]) -> Results {
        let mut results = Results::default();
        for (place, rate) in rates.into_iter().enumerate() {
            // One wild round in three must not show.
            for operations in [rate, rate, rate * 100] {
                let row = "create-16".to_owned();
                let sample =
                    Sample { row, operations, bytes: 0, wall_us: 1_000_000, core_us: operations };
                results.add(place, vec![sample]);
            }
        }
        results
    }

    fn rendered(rates: [u64; 3]) -> (String, bool) {
        let row = Row { name: "create-16".into(), unit: Unit::OperationsPerSecond };
        results(rates).render(&[row], true)
    }

    #[test]
    fn a_target_that_is_reached_says_ok() {
        let (text, reached) = rendered([1000, 300, 900]);
        assert!(reached);
        assert!(text.contains("300 /s (1.0 us) |"), "{text}");
        assert!(text.contains(" 0.30 |") && text.contains(" 0.33 |"), "{text}");
        assert!(text.contains(">= 0.3 nullfs: ok"), "{text}");
    }

    #[test]
    fn a_target_that_is_missed_says_so() {
        let (text, reached) = rendered([1000, 100, 900]);
        assert!(!reached);
        assert!(text.contains(">= 0.3 nullfs: MISS"), "{text}");
    }

    #[test]
    fn a_median_of_an_even_number_is_the_middle() {
        assert_eq!(median([4.0, 1.0, 2.0, 100.0].into_iter()), 3.0);
    }
}
