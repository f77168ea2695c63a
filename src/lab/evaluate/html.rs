//! The report as one self-contained page: curves, tables, gallery; nothing is loaded from elsewhere.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::confusion::Confusion;
use super::froc::{AT, Rule};
use super::gallery::{AT_FALSE_POSITIVES, Gallery, Picture, Tile};
use super::measured::Measured;
use super::plot;
use super::report::{Report, Row};
use super::tables::Study;

/// Text as text, not as markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page. `title` names what was evaluated.
#[must_use]
pub fn page(title: &str, report: &Report, study: &Study, gallery: &Gallery) -> String {
    let mut out = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>FROC: {title}</title><style>{css}</style></head><body><h1>FROC: {title}</h1>"#,
        title = escape(title),
        css = include_str!("page.css")
    );
    preface(&mut out, report);
    report.row_sets().into_iter().for_each(|set| section(&mut out, set, report));
    confusion(&mut out, &report.confusion);
    if let Some(m) = &report.measured {
        measured(&mut out, m);
    }
    let above = if gallery.threshold.is_finite() { format!("above {:.3}", gallery.threshold) } else { "at all".to_owned() };
    let _ = write!(
        out,
        r#"<h2>Gallery</h2><p class="faint">Truth green, prediction red with its score. Predictions count with a score {above}: {AT_FALSE_POSITIVES} false positives an image on the key images of all sets. One tile a lesion; false alarms that overlap in one series are shown once. The bar is 10 mm.</p>"#
    );
    for (name, (tiles, n)) in [("Hits", &gallery.hits), ("Misses", &gallery.misses), ("False alarms", &gallery.false_alarms)] {
        let _ = write!(out, r#"<h3>{name}: {} of {n}</h3><div class="tiles">"#, tiles.len());
        tiles.iter().for_each(|t| tile(&mut out, t, study));
        out += "</div>";
    }
    out + "</body></html>\n"
}

fn preface(out: &mut String, report: &Report) {
    let c = &report.counts;
    let _ = write!(
        out,
        r#"<p>{} candidates against {} boxes on {} images. Boxes of kind <code>mask</code> are grown by {} px on each side. 95 % intervals: {} draws of patients.</p><p class="faint">DeepLesion's protocol: a prediction that overlaps no truth box of its image is a false positive, a second hit on a found box counts neither way (strict: it is a false positive), boxes are x2 − x1 + 1 wide, the curve is interpolated linearly. <i>key</i>: images with a lesion; <i>all</i>: every image. Unmarked lesions count as false positives. Rows of a type or size are held against the false positives of all.</p>"#,
        c.candidates, c.truths, c.images, report.pad_px, report.bootstrap
    );
    let left_out = [
        (c.candidates_of_unlisted_images, "candidates on unlisted images"),
        (c.candidates_of_other_sets, "candidates of other sets"),
        (c.truths_of_other_sets, "truth boxes of other sets"),
        (c.images_of_other_sets, "images of other sets"),
        (c.truths_without_size, "truth boxes without a long axis (from the size rows)"),
    ];
    let left_out: Vec<String> = left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !left_out.is_empty() {
        let _ = write!(out, r#"<p class="faint">Left out: {}.</p>"#, left_out.join(", "));
    }
}

fn section(out: &mut String, set: &str, report: &Report) {
    let h = report.headline(set);
    let _ = write!(
        out,
        r#"<h2>{}</h2><p class="faint">{} images, {} with a lesion, {} volumes, {} patients</p><div class="set"><figure>"#,
        escape(set),
        h.images,
        h.key_images,
        h.volumes,
        h.patients
    );
    let main = |rule: Rule, images: &str| {
        h.by_image.iter().copied().find(|r| r.is_whole() && r.rule == rule.name() && r.images == images && r.unit == "boxes")
    };
    let curves = [
        (main(Rule::Iou, "key"), "iou", "IoU > 0.5, key"),
        (main(Rule::Iobb, "key"), "iobb", "IoBB ≥ 0.3, key"),
        (main(Rule::Strict, "key"), "strict", "IoU > 0.5 strict, key"),
        (main(Rule::Iou, "all"), "every", "IoU > 0.5, all"),
    ];
    let drawn: Vec<(&Row, &str)> = curves.iter().filter_map(|(row, class, _)| Some(((*row)?, *class))).collect();
    *out += &plot::froc(&format!("FROC of {}", escape(set)), &drawn);
    *out += "<figcaption>";
    for (_, class, name) in curves.iter().filter(|(row, ..)| row.is_some()) {
        let _ = write!(out, r#"<span><i class="key {class}"></i>{name}</span>"#);
    }
    *out += r#"</figcaption></figure><div class="wide">"#;
    table(out, &h.by_image);
    table(out, &h.by_volume);
    *out += "</div></div>";
}

fn table(out: &mut String, rows: &[&Row]) {
    let Some(first) = rows.first() else { return };
    let at = first.at.map(|a| format!("<th>@{a}</th>")).concat();
    let _ = write!(
        out,
        r#"<table><thead><tr><th class="left">found (%) at false positives {}</th><th>n</th>{at}</tr></thead><tbody>"#,
        first.per_what()
    );
    for row in rows {
        let cells: String = (0..AT.len())
            .map(|i| {
                let interval = row.ci95.map_or(String::new(), |ci| format!("<small>{:.0}–{:.0}</small>", ci[i][0], ci[i][1]));
                format!("<td>{:.1}{interval}</td>", row.sensitivity[i])
            })
            .collect();
        let what = format!("{} {} {} {}", escape(&row.rule), row.images, row.unit, escape(row.cut()));
        let _ = write!(out, r#"<tr><td class="left">{what}</td><td>{}</td>{cells}</tr>"#, row.n);
    }
    *out += "</tbody></table>";
}

fn confusion(out: &mut String, confusion: &Confusion) {
    if confusion.n() == 0 {
        return;
    }
    let head: String = confusion.types().iter().map(|t| format!("<th>{}</th>", escape(t))).collect();
    let _ = write!(
        out,
        r#"<h2>Types</h2><p class="faint">What boxes found by IoU &gt; 0.5 at any score are taken for: {} of {} rightly.</p><div class="set"><div class="wide"><table><thead><tr><th class="left">true, taken for</th>{head}</tr></thead><tbody>"#,
        confusion.right(),
        confusion.n()
    );
    for (truth, counts) in confusion.rows() {
        let cells: String = counts.iter().map(|c| format!("<td>{c}</td>")).collect();
        let _ = write!(out, r#"<tr><td class="left">{}</td>{cells}</tr>"#, escape(truth));
    }
    *out += "</tbody></table></div></div>";
}

fn measured(out: &mut String, m: &Measured) {
    let _ = write!(
        out,
        r#"<h2>Reported lesions</h2><p class="faint">{} reported, {} of them overlap a truth box of their key image by IoU &gt; 0.5; {} on unlisted images and {} of other sets are left out.</p><div class="set"><figure>{}<figcaption>Share of true lesions by score{}</figcaption></figure><div class="wide"><table><thead><tr><th class="left">long axis</th><th>n</th><th>mean error, mm</th><th>median, mm</th><th>bias, mm</th></tr></thead><tbody>"#,
        m.lesions,
        m.lesions_true,
        m.lesions_of_unlisted_images,
        m.lesions_of_other_sets,
        plot::calibration(&m.calibration),
        m.calibration_error.map_or(String::new(), |e| format!("; calibration error {e:.3}"))
    );
    for a in &m.long_axis {
        let _ = write!(
            out,
            r#"<tr><td class="left">{}</td><td>{}</td><td>{:.1}</td><td>{:.1}</td><td>{:+.1}</td></tr>"#,
            escape(&a.set),
            a.n,
            a.mean_absolute_mm,
            a.median_absolute_mm,
            a.bias_mm
        );
    }
    *out += "</tbody></table></div></div>";
}

fn tile(out: &mut String, tile: &Tile, study: &Study) {
    let slice = &study.slices[tile.slice];
    *out += r#"<figure class="tile">"#;
    match &tile.picture {
        Ok(picture) => drawing(out, picture, tile),
        Err(why) => {
            let _ = write!(out, r#"<div class="none">{}</div>"#, escape(why));
        }
    }
    let score = tile.prediction.map_or("no prediction near".to_owned(), |(_, score)| format!("score {score:.3}"));
    let overlap = tile.overlap.map_or(String::new(), |o| format!(", IoU {o:.2}"));
    let _ = write!(
        out,
        r#"<figcaption><b>{score}</b>{overlap}<br>{} {} {}<br>…{}</figcaption></figure>"#,
        escape(&slice.set),
        escape(&slice.case),
        escape(&tile.kind),
        escape(&slice.sop_uid.chars().skip(slice.sop_uid.chars().count().saturating_sub(12)).collect::<String>())
    );
}

fn drawing(out: &mut String, picture: &Picture, tile: &Tile) {
    let [width, height] = picture.size_px;
    let _ = write!(
        out,
        r#"<svg viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" href="data:image/png;base64,{}"/>"#,
        STANDARD.encode(&picture.png)
    );
    let [x0, y0] = picture.origin_px.map(|v| v as f64);
    // A pixel's centre is its number: a box of first and last pixel begins where the first one does.
    let mut draw = |[x1, y1, x2, y2]: [f64; 4], class: &str| {
        let _ = write!(
            out,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
            x1 - x0,
            y1 - y0,
            x2 - x1 + 1.0,
            y2 - y1 + 1.0
        );
    };
    if let Some(truth) = tile.truth {
        draw(truth, "truth");
    }
    if let Some((predicted, score)) = tile.prediction {
        draw(predicted, "predicted");
        let size = height as f64 / 14.0;
        let y = (predicted[1] - y0 - 0.3 * size).max(size);
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{y:.1}" font-size="{size:.1}" stroke-width="{:.1}">{score:.2}</text>"#,
            (predicted[0] - x0).max(1.0),
            size / 5.0
        );
    }
    if let Some(mm) = picture.column_spacing_mm.filter(|mm| *mm > 0.0) {
        let y = height as f64 - 4.0;
        let _ = write!(out, r#"<line class="scale" x1="4" y1="{y}" x2="{:.1}" y2="{y}"/>"#, 4.0 + 10.0 / mm);
    }
    *out += "</svg>";
}
