//! Real, outlined lesions with a free licence, transplanted into other bodies: nodules of LIDC (PNG crops) and sarcomas (DICOM crops).

use std::collections::BTreeMap;
use std::path::Path;

use rand::Rng;

use super::{Planes, SLOT_MM, Truth};
use crate::error::{Class, Failure};
use crate::lab::dataset::{Disease, Scan, ScanSlice};
use crate::volume::body::{PixelBox, body_box};
use crate::volume::frame::{ImageGrid, MARGIN_PX};
use crate::volume::{HuImage, pixels};

/// Width over which a pasted photograph fades into the crop, pixels.
const FADE_PX: f32 = 6.0;

/// Bone, and the share of it in a box from which on a lesion counts as one beside bone.
const BONE_HU: f32 = 220.0;
const MOST_DENSE: f32 = 0.004;

/// Width of what may be oedema round a sarcoma, mm: nobody outlined it.
const OEDEMA_MM: f32 = 20.0;
/// Distance of the sarcomas' sections, mm.
const STS_SPACING_MM: f32 = 3.27;
/// Their pixels, mm.
const STS_PIXEL_MM: f32 = 0.977;

/// One section of a real lesion.
struct Section {
    z_mm: f32,
    width: usize,
    height: usize,
    hu: Vec<f32>,
    /// Tight box, inclusive; `None` where the lesion is not outlined on it.
    outline: Option<[f32; 4]>,
    /// Outlines of other lesions.
    others: Vec<[f32; 4]>,
}

/// A real lesion: neighbouring sections, rising z.
pub struct RealLesion {
    /// Type index.
    pub lesion_type: usize,
    /// True for lung nodules: brighter than what they are put into.
    pub in_lung: bool,
    /// Bone or metal within its outline: it cannot lie elsewhere.
    pub beside_bone: bool,
    pixel_mm: f32,
    sections: Vec<Section>,
    key: usize,
}

/// Reads `LIDC/truth.csv` and `STS/truth.csv` below `root`.
///
/// # Errors
/// Unreadable tables; crops that do not decode are named on stderr and left out.
pub fn read(root: &Path) -> Result<Vec<RealLesion>, Failure> {
    let mut lesions = read_lidc(&root.join("LIDC"))?;
    lesions.extend(read_sts(&root.join("STS"))?);
    Ok(lesions)
}

type Rows = BTreeMap<String, Vec<BTreeMap<String, String>>>;

fn table(path: &Path) -> Result<Rows, Failure> {
    let bad = |e: csv::Error| Failure::new(Class::Data, format!("{}: {e}", path.display()));
    let mut rows: Rows = BTreeMap::new();
    let mut reader = csv::Reader::from_path(path).map_err(bad)?;
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.map_err(bad)?;
        rows.entry(row.get("case").cloned().unwrap_or_default()).or_default().push(row);
    }
    Ok(rows)
}

fn number(row: &BTreeMap<String, String>, key: &str) -> Option<f32> {
    row.get(key).and_then(|v| v.parse().ok())
}

fn outline(row: &BTreeMap<String, String>) -> Option<[f32; 4]> {
    Some([number(row, "x1")?, number(row, "y1")?, number(row, "x2")?, number(row, "y2")?])
}

fn type_index(name: &str) -> usize {
    crate::detect::TYPE_NAMES.iter().position(|n| *n == name).unwrap_or(0)
}

fn key_section(sections: &[Section]) -> usize {
    let area = |s: &Section| s.outline.map_or(0.0, |b| (b[2] - b[0]) * (b[3] - b[1]));
    (0..sections.len()).max_by(|a, b| area(&sections[*a]).total_cmp(&area(&sections[*b]))).unwrap_or(0)
}

fn read_lidc(folder: &Path) -> Result<Vec<RealLesion>, Failure> {
    let mut lesions = Vec::new();
    for (case, rows) in table(&folder.join("truth.csv"))? {
        let mut sections: Vec<Section> = Vec::new();
        let kind = |r: &BTreeMap<String, String>| r.get("box_kind").cloned().unwrap_or_default();
        for row in rows.iter().filter(|r| kind(r).starts_with("mask") || kind(r) == "none") {
            let (Some(low), Some(high), Some(z_mm)) = (number(row, "hu_at_0_est"), number(row, "hu_at_255_est"), number(row, "z_mm"))
            else {
                continue;
            };
            let Some(file) = row.get("file") else { continue };
            match grey(&folder.join(file)) {
                Ok((width, height, grey)) => {
                    let hu = grey.iter().map(|g| low + f32::from(*g) / 255.0 * (high - low)).collect();
                    let same = |r: &&BTreeMap<String, String>| kind(r) == "contour" && r.get("file") == Some(file);
                    let others = rows.iter().filter(same).filter_map(outline).collect();
                    sections.push(Section { z_mm, width, height, hu, outline: outline(row), others });
                }
                Err(e) => eprintln!("{case}: left out: {e}"),
            }
        }
        sections.sort_by(|a, b| a.z_mm.total_cmp(&b.z_mm));
        sections.dedup_by(|a, b| a.z_mm == b.z_mm);
        let pixel_mm = rows.first().and_then(|r| number(r, "pixel_mm")).unwrap_or(0.7);
        if sections.iter().any(|s| s.outline.is_some()) {
            let key = key_section(&sections);
            lesions.push(RealLesion { lesion_type: type_index("lung"), in_lung: true, beside_bone: false, pixel_mm, sections, key });
        }
    }
    Ok(lesions)
}

fn grey(path: &Path) -> Result<(usize, usize, Vec<u8>), String> {
    let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().map_err(|e| e.to_string())?;
    let mut buffer = vec![0; reader.output_buffer_size().ok_or("too large")?];
    let info = reader.next_frame(&mut buffer).map_err(|e| e.to_string())?;
    let step = buffer.len() / (info.width as usize * info.height as usize).max(1);
    let grey = buffer.chunks_exact(step.max(1)).map(|c| c[0]).collect();
    Ok((info.width as usize, info.height as usize, grey))
}

fn read_sts(folder: &Path) -> Result<Vec<RealLesion>, Failure> {
    let mut lesions = Vec::new();
    for (case, rows) in table(&folder.join("truth.csv"))? {
        let mut sections = Vec::new();
        for row in &rows {
            let Some(index) = number(row, "slice_index") else { continue };
            let path = folder.join(&case).join(format!("{:04}.dcm", index as u32));
            match pixels::decode(&path) {
                Ok(image) => sections.push(Section {
                    z_mm: index * STS_SPACING_MM,
                    width: image.cols,
                    height: image.rows,
                    hu: image.hu.iter().map(|v| f32::from(*v)).collect(),
                    outline: outline(row),
                    others: Vec::new(),
                }),
                Err(e) => eprintln!("{}: left out: {e}", path.display()),
            }
        }
        sections.sort_by(|a, b| a.z_mm.total_cmp(&b.z_mm));
        if !sections.is_empty() {
            let key = key_section(&sections);
            let beside_bone = sections[key].dense_share() > MOST_DENSE;
            lesions.push(RealLesion {
                lesion_type: type_index("soft tissue"),
                in_lung: false,
                beside_bone,
                pixel_mm: STS_PIXEL_MM,
                sections,
                key,
            });
        }
    }
    Ok(lesions)
}

/// The limbs that sarcomas were photographed in, as bodies to paint into; the sarcoma and its margin count neither way.
#[must_use]
pub fn limbs(lesions: &[RealLesion]) -> Vec<Scan> {
    lesions.iter().filter(|l| !l.in_lung).map(RealLesion::limb).collect()
}

fn grown(b: [f32; 4], by: f32) -> [f32; 4] {
    [b[0] - by, b[1] - by, b[2] + by, b[3] + by]
}

impl RealLesion {
    fn limb(&self) -> Scan {
        let first = &self.sections[0];
        let slices = self.sections.iter().enumerate().map(|(i, s)| {
            let image = HuImage { rows: s.height, cols: s.width, hu: s.hu.iter().map(|v| *v as i16).collect() };
            let region = |b: [f32; 4]| {
                let [x1, y1, x2, y2] = grown(b, OEDEMA_MM / self.pixel_mm).map(|v| v.max(0.0) as usize);
                PixelBox { x1, y1, x2: x2.min(s.width - 1), y2: y2.min(s.height - 1) }
            };
            let disease = s.outline.map(|b| Disease { region: region(b), whole_organ: false }).into_iter().collect();
            let (body, sop_uid) = (body_box(&image), String::new());
            ScanSlice { body, image, z_mm: f64::from(s.z_mm), disease, sop_uid, number: i as u32, sites: None }
        });
        Scan {
            name: "limb".into(),
            grid: ImageGrid { rows: first.height, cols: first.width, spacing_mm: [f64::from(self.pixel_mm); 2] },
            spacing_mm: f64::from(STS_SPACING_MM),
            slices: slices.collect(),
        }
    }

    /// Puts the lesion with its middle at `centre` (slot pixels), turned or mirrored, shrunk by `shrink`; blended over a margin.
    /// The truth is its outline's box grown by [`MARGIN_PX`].
    pub fn transplant(&self, planes: &mut Planes, centre: [f32; 2], shrink: f32, rng: &mut impl Rng) -> Option<Truth> {
        let size = planes.size;
        // A section beside the key one now and then: a lesion is also to be found off its largest section.
        let shift = if planes.hu.len() == 1 && rng.random_bool(0.3) { rng.random_range(-2i64..=2) } else { 0 };
        let key = usize::try_from(self.key as i64 + shift)
            .ok()
            .filter(|k| self.sections.get(*k).is_some_and(|s| s.outline.is_some()))
            .unwrap_or(self.key);
        let outline = self.sections[key].outline?;
        let (cx, cy) = ((outline[0] + outline[2]) / 2.0, (outline[1] + outline[3]) / 2.0);
        // Slot pixel → crop pixel
        let scale = SLOT_MM / (self.pixel_mm * shrink);
        let (mirror, turn) = (if rng.random_bool(0.5) { -1.0 } else { 1.0 }, rng.random_range(0..4));
        let map = |dx: f32, dy: f32| {
            let (u, v) = match turn {
                0 => (dx, dy),
                1 => (dy, -dx),
                2 => (-dx, -dy),
                _ => (-dy, dx),
            };
            (cx + mirror * u * scale, cy + v * scale)
        };
        let margin_crop = MARGIN_PX.max(2.0 / self.pixel_mm);
        for (plane, offset) in planes.hu.iter_mut().zip(&planes.offsets_mm) {
            let z = self.sections[key].z_mm + offset;
            let section = self.nearest(z)?;
            let b = section.outline.unwrap_or(outline);
            let (mx, my) = ((b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0);
            let (rx, ry) = ((b[2] - b[0]) / 2.0 + 1.0, (b[3] - b[1]) / 2.0 + 1.0);
            let reach = ((rx.max(ry) * 1.5 + 3.0 * margin_crop) / scale).ceil() as i64;
            for dy in -reach..=reach {
                for dx in -reach..=reach {
                    let (x, y) = (centre[0] as i64 + dx, centre[1] as i64 + dy);
                    if x < 0 || y < 0 || x >= size as i64 || y >= size as i64 {
                        continue;
                    }
                    let (u, v) = map(dx as f32, dy as f32);
                    // 1 inside the ellipse round the outline's box, falling to 0 over the margin.
                    let ellipse = (((u - mx) / (rx * 1.25)).powi(2) + ((v - my) / (ry * 1.25)).powi(2)).sqrt();
                    let beyond = (ellipse - 1.0) * rx.min(ry);
                    let alpha = (1.0 - beyond / margin_crop).clamp(0.0, 1.0);
                    if alpha <= 0.0 {
                        continue;
                    }
                    let Some(value) = section.bilinear(u, v) else { continue };
                    let i = y as usize * size + x as usize;
                    let own = plane[i];
                    let value = if self.in_lung { value.max(own) } else { value };
                    plane[i] = own + alpha * alpha * (3.0 - 2.0 * alpha) * (value - own);
                }
            }
        }
        let half = [(outline[2] - outline[0] + 1.0) / 2.0 / scale, (outline[3] - outline[1] + 1.0) / 2.0 / scale];
        let [hx, hy] = if turn % 2 == 0 { half } else { [half[1], half[0]] };
        Some(self.truth([centre[0].floor(), centre[1].floor()], [hx, hy]))
    }

    /// Puts the lesion with all that was photographed round it somewhere into the crop, scaled and mirrored; also returns what counts neither way:
    /// its margin and other lesions, where the surroundings are healthy otherwise, or all of the photograph.
    pub fn paste(&self, planes: &mut Planes, healthy: bool, rng: &mut impl Rng) -> Option<(Truth, Vec<[f32; 4]>)> {
        let size = planes.size;
        let outlined: Vec<usize> = (0..self.sections.len()).filter(|i| self.sections[*i].outline.is_some()).collect();
        let key = if rng.random_bool(0.6) { self.key } else { *outlined.get(rng.random_range(0..outlined.len()))? };
        let outline = self.sections[key].outline?;
        let wanted_mm =
            if self.in_lung { self.long_mm() * rng.random_range(0.75..1.35) } else { 15.0 * rng.random_range(0.0f32..1.8).exp() };
        let shrink = (wanted_mm / self.long_mm().max(1.0)).clamp(0.15, 1.35);
        let scale = SLOT_MM / (self.pixel_mm * shrink);
        let (mx, my) = (if rng.random_bool(0.5) { -1.0 } else { 1.0 }, if rng.random_bool(0.2) { -1.0 } else { 1.0 });
        let (cx, cy) = ((outline[0] + outline[2]) / 2.0, (outline[1] + outline[3]) / 2.0);
        let half = [(outline[2] - outline[0] + 1.0) / 2.0 / scale, (outline[3] - outline[1] + 1.0) / 2.0 / scale];
        let room = |half: f32| {
            let edge = half + MARGIN_PX + 2.0;
            if 2.0 * edge < size as f32 { rng.random_range(edge..size as f32 - edge) } else { size as f32 / 2.0 }
        };
        let centre = half.map(room);
        let mut patch = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        for (plane, offset) in planes.hu.iter_mut().zip(&planes.offsets_mm) {
            let z = self.sections[key].z_mm + offset;
            let section = self.nearest(z)?;
            let (width, height) = (section.width as f32 - 1.0, section.height as f32 - 1.0);
            for y in 0..size {
                for x in 0..size {
                    let (u, v) = (cx + mx * (x as f32 - centre[0]) * scale, cy + my * (y as f32 - centre[1]) * scale);
                    let Some(value) = section.bilinear(u, v) else { continue };
                    // The rim of the photograph fades over a few pixels.
                    let alpha = (u.min(v).min(width - u).min(height - v) / (FADE_PX * scale)).clamp(0.0, 1.0);
                    let own = &mut plane[y * size + x];
                    *own += alpha * (value - *own);
                    patch = [patch[0].min(x as f32), patch[1].min(y as f32), patch[2].max(x as f32), patch[3].max(y as f32)];
                }
            }
        }
        let truth = self.truth(centre, half);
        if !healthy {
            return Some((truth, vec![grown(patch, FADE_PX)]));
        }
        let place = |b: &[f32; 4]| {
            let (x, y) = ([b[0], b[2]].map(|u| centre[0] + mx * (u - cx) / scale), [b[1], b[3]].map(|v| centre[1] + my * (v - cy) / scale));
            grown([x[0].min(x[1]), y[0].min(y[1]), x[0].max(x[1]), y[0].max(y[1])], MARGIN_PX)
        };
        let mut unsure: Vec<[f32; 4]> = self.sections[key].others.iter().map(place).collect();
        unsure.push(grown(truth.box_px, if self.in_lung { MARGIN_PX } else { OEDEMA_MM / self.pixel_mm / scale }));
        Some((truth, unsure))
    }

    /// The section nearest to `z_mm`.
    fn nearest(&self, z_mm: f32) -> Option<&Section> {
        self.sections.iter().min_by(|a, b| (a.z_mm - z_mm).abs().total_cmp(&(b.z_mm - z_mm).abs()))
    }

    /// The truth of an outline that lies at `centre` and reaches `half` to each side, crop pixels.
    fn truth(&self, [x, y]: [f32; 2], [hx, hy]: [f32; 2]) -> Truth {
        // Half a pixel: outlines are inclusive pixel indices.
        let (left, top, right, bottom) = (x - hx + 0.5, y - hy + 0.5, x + hx - 0.5, y + hy - 0.5);
        let box_px = [left - MARGIN_PX, top - MARGIN_PX, right + MARGIN_PX, bottom + MARGIN_PX];
        Truth { box_px, lesion_type: self.lesion_type, axes_px: None, angle_rad: 0.0 }
    }

    /// Long side of the key outline, mm.
    #[must_use]
    pub fn long_mm(&self) -> f32 {
        self.sections[self.key].outline.map_or(0.0, |b| (b[2] - b[0]).max(b[3] - b[1]) * self.pixel_mm)
    }
}

impl Section {
    /// Share of bone and metal in the box.
    fn dense_share(&self) -> f32 {
        let Some([x1, y1, x2, y2]) = self.outline.map(|b| b.map(|v| v as usize)) else { return 0.0 };
        let rows = (y1..=y2.min(self.height - 1)).map(|y| &self.hu[y * self.width + x1..=y * self.width + x2.min(self.width - 1)]);
        let (dense, all) = rows.flatten().fold((0.0, 0.0), |(d, n), v| (d + f32::from(u8::from(*v > BONE_HU)), n + 1.0));
        dense / f32::max(all, 1.0)
    }

    fn bilinear(&self, x: f32, y: f32) -> Option<f32> {
        if x < 0.0 || y < 0.0 || x >= (self.width - 1) as f32 || y >= (self.height - 1) as f32 {
            return None;
        }
        let (x0, y0) = (x as usize, y as usize);
        let (fx, fy) = (x - x0 as f32, y - y0 as f32);
        let at = |x: usize, y: usize| self.hu[y * self.width + x];
        let top = at(x0, y0) + (at(x0 + 1, y0) - at(x0, y0)) * fx;
        let bottom = at(x0, y0 + 1) + (at(x0 + 1, y0 + 1) - at(x0, y0 + 1)) * fx;
        Some(top + (bottom - top) * fy)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const SIDE: usize = 64;

    /// A lesion of 10 × 8 pixels in the middle of a photograph of muscle, and another one in a corner of it.
    fn lesion(in_lung: bool) -> RealLesion {
        let section = |n: usize| Section {
            z_mm: n as f32 * STS_SPACING_MM,
            width: SIDE,
            height: SIDE,
            hu: vec![60.0; SIDE * SIDE],
            outline: Some([27.0, 28.0, 36.0, 35.0]),
            others: vec![[4.0, 4.0, 9.0, 9.0]],
        };
        RealLesion { lesion_type: 6, in_lung, beside_bone: false, pixel_mm: 0.8, sections: (0..3).map(section).collect(), key: 1 }
    }

    fn planes() -> Planes {
        Planes { size: 256, pixel_mm: SLOT_MM, hu: vec![vec![-100.0; 256 * 256]], offsets_mm: vec![0.0] }
    }

    fn within(inner: [f32; 4], outer: [f32; 4]) -> bool {
        inner[0] >= outer[0] && inner[1] >= outer[1] && inner[2] <= outer[2] && inner[3] <= outer[3]
    }

    #[test]
    fn what_lies_round_a_pasted_lesion_is_healthy_but_for_its_margin_and_other_lesions() {
        for seed in 0..30 {
            let (lesion, mut rng) = (lesion(true), StdRng::seed_from_u64(seed));
            let mut pasted = planes();
            let (truth, unsure) = lesion.paste(&mut pasted, true, &mut rng).unwrap();
            let [other, margin] = unsure[..] else { panic!("{unsure:?}") };
            assert!(within(truth.box_px, margin) && !within(other, margin), "{truth:?} {unsure:?}");
            // In its corner of the photograph, as far from the lesion as there.
            let middle = |b: [f32; 4]| [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0];
            let scale = (truth.box_px[2] - truth.box_px[0] - 2.0 * MARGIN_PX + 1.0) / 10.0;
            let apart = [0, 1].map(|i| (middle(other)[i] - middle(truth.box_px)[i]).abs() / scale);
            assert!((apart[0] - 25.0).abs() < 0.5 && (apart[1] - 25.0).abs() < 0.5, "{apart:?}");
            let photograph = pasted.hu[0].iter().filter(|v| **v > 0.0).count() as f32 * 1.2;
            let counts_neither_way: f32 = unsure.iter().map(|b| (b[2] - b[0]) * (b[3] - b[1])).sum();
            assert!(counts_neither_way < photograph, "{counts_neither_way} of {photograph}");
        }
    }

    #[test]
    fn without_surroundings_all_of_the_photograph_counts_neither_way() {
        let mut pasted = planes();
        let (_, unsure) = lesion(false).paste(&mut pasted, false, &mut StdRng::seed_from_u64(3)).unwrap();
        let [patch] = unsure[..] else { panic!("{unsure:?}") };
        let changed = (0..256 * 256).filter(|i| pasted.hu[0][*i] != -100.0).map(|i| [(i % 256) as f32, (i / 256) as f32]);
        assert!(changed.into_iter().all(|[x, y]| within([x, y, x, y], patch)));
    }

    #[test]
    fn a_limb_is_a_body_with_its_sarcoma_and_what_may_be_oedema_set_apart() {
        let scans = limbs(&[lesion(true), lesion(false)]);
        let [limb] = &scans[..] else { panic!("{} limbs of one sarcoma", scans.len()) };
        assert_eq!((limb.slices.len(), limb.grid.rows, limb.grid.cols), (3, SIDE, SIDE));
        for slice in &limb.slices {
            assert_eq!(slice.image.hu[0], 60);
            let [Disease { region, whole_organ: false }] = slice.disease[..] else { panic!("{:?}", slice.disease) };
            // 20 mm are 25 pixels.
            assert_eq!([region.x1, region.y1, region.x2, region.y2], [2, 3, 61, 60]);
        }
    }
}
