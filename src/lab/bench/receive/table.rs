//! What was measured → a Markdown table and JSON.

use serde_json::{Value, json};

use super::receivers::Receiver;
use super::{Cell, Measured, Run};
use crate::lab::bench::median::{median, percentile};

impl Measured {
    /// The runs of our receiver in the case of `cell`.
    fn ours(&self, cell: &Cell) -> &[Run] {
        let found = self.cells.iter().find(|c| c.case == cell.case && c.receiver == Receiver::Ours);
        found.map_or(&[], |c| c.runs.as_slice())
    }

    /// Ours by theirs, round by round: what else the machine did in a round hits both.
    fn ratio(&self, cell: &Cell) -> Option<f64> {
        let pairs = self.ours(cell).iter().zip(&cell.runs);
        middle(&pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second).collect::<Vec<_>>())
    }

    /// Markdown: a line on the machine, and a row a case and receiver.
    #[must_use]
    pub fn text(&self) -> String {
        let r = &self.request;
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut out = format!(
            "{}\n\n{} slices of 512 x 512 x 16 bit a run, medians of {} rounds; {}\n\n",
            self.machine.text(),
            r.slices,
            r.rounds,
            versions.join(", ")
        );
        out.push_str("| associations | receiver | before Success | slices/s (least to most) | lesionwatch by it | peak RSS MiB | CPU s per 1,000 | C-ECHO p99 ms |\n");
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        for cell in &self.cells {
            let head = format!("| {} | {} | {} |", cell.case.name(), cell.receiver.name(), cell.receiver.durable());
            if let Some(fault) = &cell.fault {
                out.push_str(&format!("{head} {} | | | | |\n", fault.replace('|', "/")));
                continue;
            }
            let shown = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
            let speeds = values(cell, |r| r.per_second);
            out.push_str(&format!(
                "{head} {} ({} to {}) | {} | {} | {} | {} |\n",
                shown(middle(&speeds), 0),
                shown(percentile(&speeds, 0.0), 0),
                shown(percentile(&speeds, 1.0), 0),
                if cell.receiver == Receiver::Ours { String::new() } else { shown(self.ratio(cell), 2) },
                shown(middle(&values(cell, |r| r.peak_mib)), 0),
                shown(middle(&values(cell, |r| r.cpu_seconds_a_thousand)), 2),
                shown(percentile(&echoes(cell), 0.99), 1),
            ));
        }
        out
    }

    /// Everything, every run included.
    #[must_use]
    pub fn json(&self) -> Value {
        let cells = self.cells.iter().map(|cell| {
            let runs = cell.runs.iter().map(|r| {
                json!({ "slices_per_second": r.per_second, "peak_rss_mib": r.peak_mib, "cpu_seconds_per_1000": r.cpu_seconds_a_thousand,
                        "echo_p99_ms": percentile(&r.echo_ms, 0.99), "echoes": r.echo_ms.len(), "echo_fault": r.echo_fault })
            });
            json!({ "associations": cell.case.associations, "sender_tcp_nodelay": !cell.case.nagle, "receiver": cell.receiver.name(),
                    "before_success": cell.receiver.durable(), "fault": cell.fault, "slices_per_second": middle(&values(cell, |r| r.per_second)),
                    "lesionwatch_by_it": self.ratio(cell), "echo_p99_ms": percentile(&echoes(cell), 0.99), "runs": runs.collect::<Vec<_>>() })
        });
        json!({ "machine": self.machine, "versions": self.versions, "slices": self.request.slices, "rounds": self.request.rounds,
                "cells": cells.collect::<Vec<_>>() })
    }
}

fn values(cell: &Cell, of: impl Fn(&Run) -> f64) -> Vec<f64> {
    cell.runs.iter().map(of).collect()
}

/// The median, where there is one.
fn middle(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

/// The round trips of all rounds.
fn echoes(cell: &Cell) -> Vec<f64> {
    cell.runs.iter().flat_map(|r| r.echo_ms.iter().copied()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Case, Request};
    use super::*;
    use crate::lab::bench::machine::Machine;

    fn cell(receiver: Receiver, speeds: &[f64], fault: Option<&str>) -> Cell {
        let run = |per_second: &f64| Run { per_second: *per_second, echo_ms: vec![1.0, *per_second], ..Run::default() };
        let case = Case { associations: 4, nagle: false };
        Cell { case, receiver, runs: speeds.iter().map(run).collect(), fault: fault.map(str::to_owned) }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_who_is_absent_is_named() {
        let cells = vec![
            cell(Receiver::Ours, &[100.0, 50.0, 80.0], None),
            cell(Receiver::Dcmtk, &[200.0, 100.0, 100.0], None),
            cell(Receiver::DicomRs, &[], Some("not installed")),
        ];
        let request = Request { slices: 10, rounds: 3, associations: vec![4], dir: "x".into(), peers: "y".into() };
        let measured =
            Measured { machine: Machine::with_disk(std::path::Path::new("/")), versions: vec![("dcmtk", "3".into())], request, cells };
        let text = measured.text();
        let row = |name: &str| text.lines().find(|l| l.contains(&format!("| {name} |"))).unwrap().to_owned();
        assert!(row("dcmtk storescp").contains("| 100 (100 to 200) | 0.50 |"), "{text}");
        assert!(row("dicom-storescp").contains("| not installed |"), "{text}");
        let json = measured.json();
        assert_eq!(json["cells"][1]["lesionwatch_by_it"], 0.5);
        assert_eq!(json["cells"][0]["echo_p99_ms"], 100.0);
        assert_eq!(json["cells"][2]["fault"], "not installed");
    }
}
