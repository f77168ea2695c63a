//! FROC and calibration curves as inline SVG. Colours come from the page's style sheet, so that they follow the reader's light or dark.

use std::fmt::Write;

use super::measured::Bin;
use super::report::Row;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [44.0, 10.0, 12.0, 40.0];

fn frame(out: &mut String, label: &str, x_title: &str, y_title: &str) {
    let [left, top, right, bottom] = MARGIN;
    let _ = write!(
        out,
        r#"<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><rect class="ground" x="{left}" y="{top}" width="{}" height="{}"/><text x="{}" y="{}" text-anchor="middle">{x_title}</text><text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{y_title}</text>"#,
        WIDTH - left - right,
        HEIGHT - top - bottom,
        (WIDTH + left - right) / 2.0,
        HEIGHT - 6.0,
        (HEIGHT + top - bottom) / 2.0,
    );
}

/// 0..1 → pixels from the left.
fn across(share: f64) -> f64 {
    MARGIN[0] + share * (WIDTH - MARGIN[0] - MARGIN[2])
}

/// 0..1 → pixels from the top.
fn up(share: f64) -> f64 {
    HEIGHT - MARGIN[3] - share * (HEIGHT - MARGIN[1] - MARGIN[3])
}

fn tick_x(out: &mut String, share: f64, text: &str) {
    let (x, low, high) = (across(share), up(0.0), up(1.0));
    let _ = write!(
        out,
        r#"<line class="grid" x1="{x:.1}" y1="{low:.1}" x2="{x:.1}" y2="{high:.1}"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
        low + 14.0
    );
}

fn tick_y(out: &mut String, share: f64, text: &str) {
    let (y, left, right) = (up(share), across(0.0), across(1.0));
    let _ = write!(
        out,
        r#"<line class="grid" x1="{left:.1}" y1="{y:.1}" x2="{right:.1}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
        left - 5.0,
        y + 4.0
    );
}

/// Curves of one set: rows with a class name each, all over the same false positives. The horizontal axis is logarithmic; whiskers are the intervals of
/// the first row.
#[must_use]
pub fn froc(label: &str, rows: &[(&Row, &str)]) -> String {
    let mut out = String::new();
    let Some((first, _)) = rows.first() else { return out };
    let ends = (first.curve.first().map_or(0.1, |p| p[0]), first.at[6]);
    let share = |x: f64| (x / ends.0).ln() / (ends.1 / ends.0).ln();
    frame(&mut out, label, &format!("false positives {}", first.per_what()), "sensitivity, %");
    for x in first.at {
        // 5 stands too near to 4 to be written.
        tick_x(&mut out, share(x), &if x == 5.0 { String::new() } else { x.to_string() });
    }
    for y in [0, 20, 40, 60, 80, 100] {
        tick_y(&mut out, f64::from(y) / 100.0, &y.to_string());
    }
    for ((x, ci), s) in first.at.iter().zip(first.ci95.iter().flatten()).zip(first.sensitivity) {
        let (x, low, high) = (across(share(*x)), up(ci[0] / 100.0), up(ci[1] / 100.0));
        let _ = write!(
            out,
            r#"<path class="whisker" d="M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h6M{:.1} {high:.1}h6"/><circle class="dot" cx="{x:.1}" cy="{:.1}" r="2.5"/>"#,
            x - 3.0,
            x - 3.0,
            up(s / 100.0)
        );
    }
    for (row, class) in rows {
        let points: Vec<String> = row.curve.iter().map(|[x, y]| format!("{:.1},{:.1}", across(share(*x)), up(y / 100.0))).collect();
        let _ = write!(out, r#"<polyline class="curve {class}" points="{}"/>"#, points.join(" "));
    }
    out + "</svg>"
}

/// Share of true lesions over score; a disc's area is its number of lesions.
#[must_use]
pub fn calibration(bins: &[Bin]) -> String {
    let mut out = String::new();
    frame(&mut out, "Calibration: share of true lesions by score", "score", "share that is true");
    for i in 0..=5 {
        let share = f64::from(i) / 5.0;
        tick_x(&mut out, share, &format!("{share:.1}"));
        tick_y(&mut out, share, &format!("{share:.1}"));
    }
    let _ = write!(out, r#"<path class="grid ideal" d="M{} {}L{} {}"/>"#, across(0.0), up(0.0), across(1.0), up(1.0));
    let points: Vec<(f64, f64, usize)> = bins.iter().filter_map(|b| Some((across(b.mean_score?), up(b.share_true?), b.n))).collect();
    let line: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(out, r#"<polyline class="curve iou" points="{}"/>"#, line.join(" "));
    let most = points.iter().map(|p| p.2).max().unwrap_or(1) as f64;
    for (x, y, n) in points {
        let radius = 2.5 + 7.5 * (n as f64 / most).sqrt();
        let _ = write!(out, r#"<circle class="dot" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{n} lesions</title></circle>"#);
    }
    out + "</svg>"
}
