//! The table of `bench engines`.

use super::{BATCHES, Report};

impl Report {
    /// For a terminal; its lines are Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }
}

fn text(report: &Report) -> String {
    let [h, w] = report.slot;
    let mut out =
        format!("{}\n{} as {h} × {w} slots, medians of {} rounds turn about\n\n", report.machine.text(), report.series, report.rounds);
    let heads = BATCHES.map(|n| format!("ms a slot, {n} at once")).join(" | ");
    out += &format!(
        "| engine | {heads} | slots a second, {} slots | CPU ms a slot | J a slot | peak MiB | of onnxruntime f32 | of its CPU time |\n",
        report.series_slots
    );
    out += &format!("|---|{}---|---|---|---|---|---|\n", "---|".repeat(BATCHES.len()));
    for row in &report.engines {
        if let Some(why) = &row.absent {
            out += &format!("| {} | absent: {why} |{}\n", row.engine, " |".repeat(BATCHES.len() + 5));
            continue;
        }
        let ms: Vec<String> = row.batch_ms.iter().map(|ms| format!("{ms:.1}")).collect();
        let or_dash = |v: Option<f64>, digits: usize| v.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        out += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            row.engine,
            ms.join(" | "),
            or_dash(row.slots_a_second, 1),
            or_dash(row.cpu_ms, 1),
            or_dash(row.joules, 3),
            or_dash(row.peak_mib, 0),
            or_dash(row.of_peer, 2),
            or_dash(row.of_peer_cpu, 2)
        );
    }
    out
}
