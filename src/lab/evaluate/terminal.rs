//! The report for a terminal: what one looks at first; everything else is in the JSON.

use std::fmt::Write;

use super::report::{Report, Row};

/// The column at which the interval is shown: the middle of the reported range.
const INTERVAL_AT: usize = 3;

/// The tables as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    report.row_sets().into_iter().for_each(|name| set(&mut out, name, report));
    confusion(&mut out, report);
    measured(&mut out, report);
    counts(&mut out, report);
    out
}

fn set(out: &mut String, set: &str, report: &Report) {
    let h = report.headline(set);
    let _ = writeln!(out, "{set}: {} images, {} with a lesion, {} volumes, {} patients", h.images, h.key_images, h.volumes, h.patients);
    for rows in [&h.by_image, &h.by_volume] {
        if let Some(first) = rows.first() {
            let at = first.at.map(|a| format!("{:>6}", format!("@{a}"))).concat();
            let head = format!("% found at false positives {}", first.per_what());
            let _ = writeln!(out, "  {head:<50}{at}   95 % @{}", first.at[INTERVAL_AT]);
        }
        rows.iter().for_each(|row| line(out, row));
    }
    out.push('\n');
}

fn line(out: &mut String, row: &Row) {
    let values = row.sensitivity.map(|s| format!("{s:>6.1}")).concat();
    let interval = row.ci95.map_or("-".to_owned(), |ci| format!("{:.0}..{:.0}", ci[INTERVAL_AT][0], ci[INTERVAL_AT][1]));
    let _ = writeln!(out, "  {:<15}{:<4}{:<8}{:<14}{:>6}   {values}   {interval}", row.rule, row.images, row.unit, row.cut(), row.n);
}

fn confusion(out: &mut String, report: &Report) {
    let (types, n) = (report.confusion.types(), report.confusion.n());
    if n == 0 {
        return;
    }
    let _ = writeln!(out, "type of found boxes, IoU>0.5 at any score: {} of {n} right", report.confusion.right());
    let _ = writeln!(out, "  {:<13}{}", "", types.iter().map(|t| format!("{t:>13}")).collect::<String>());
    for (truth, counts) in report.confusion.rows() {
        let _ = writeln!(out, "  {truth:<13}{}", counts.iter().map(|c| format!("{c:>13}")).collect::<String>());
    }
    out.push('\n');
}

fn measured(out: &mut String, report: &Report) {
    let Some(m) = &report.measured else { return };
    let _ = writeln!(out, "reported lesions: {}, true {}", m.lesions, m.lesions_true);
    for a in &m.long_axis {
        let _ = writeln!(
            out,
            "  long axis, {:<12} n {:>4}   mean error {:.1} mm, median {:.1} mm, bias {:+.1} mm",
            a.set, a.n, a.mean_absolute_mm, a.median_absolute_mm, a.bias_mm
        );
    }
    for b in m.calibration.iter().filter(|b| b.n > 0) {
        let of = |v: Option<f64>| v.unwrap_or(f64::NAN);
        let _ =
            writeln!(out, "  score {:.1}..{:.1}: n {:>5}   mean {:.3}, true {:.3}", b.low, b.high, b.n, of(b.mean_score), of(b.share_true));
    }
    if let Some(error) = m.calibration_error {
        let _ = writeln!(out, "  calibration error {error:.3}");
    }
    out.push('\n');
}

fn counts(out: &mut String, report: &Report) {
    let c = &report.counts;
    let _ = writeln!(
        out,
        "{} candidates, {} truth boxes (of kind mask: grown by {} px), {} images; intervals from {} draws of patients",
        c.candidates, c.truths, report.pad_px, c.images, report.bootstrap
    );
    let (other, unlisted) = report.measured.as_ref().map_or((0, 0), |m| (m.lesions_of_other_sets, m.lesions_of_unlisted_images));
    for (n, what) in [
        (c.candidates_of_unlisted_images, "candidates are on images that the image table does not list"),
        (c.candidates_of_other_sets, "candidates are of sets that were not asked for"),
        (c.truths_of_other_sets, "truth boxes are of sets that were not asked for"),
        (c.images_of_other_sets, "images are of sets that were not asked for"),
        (c.truths_without_size, "truth boxes have no long axis: they are in no size row"),
        (unlisted, "reported lesions are on images that the image table does not list"),
        (other, "reported lesions are of sets that were not asked for"),
    ] {
        if n > 0 {
            let _ = writeln!(out, "left out: {n} {what}");
        }
    }
}
