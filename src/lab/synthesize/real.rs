//! Real, outlined lesions with a free licence, transplanted into other bodies: nodules of LIDC (PNG crops) and sarcomas (DICOM crops).

use std::collections::BTreeMap;
use std::path::Path;

use rand::Rng;

use super::{Planes, SLOT_MM, Truth};
use crate::error::{Class, Failure};
use crate::volume::frame::MARGIN_PX;
use crate::volume::pixels;

/// Width over which a pasted photograph fades into the crop, pixels.
const FADE_PX: f32 = 6.0;

/// Bone, and the share of it in a box from which on a lesion counts as one beside bone.
const BONE_HU: f32 = 220.0;
const MOST_DENSE: f32 = 0.004;

/// One section of a real lesion.
struct Section {
    z_mm: f32,
    width: usize,
    height: usize,
    hu: Vec<f32>,
    /// Tight box, inclusive; `None` where the lesion is not outlined on it.
    outline: Option<[f32; 4]>,
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
        for row in rows.iter().filter(|r| r.get("box_kind").is_some_and(|k| k.starts_with("mask") || k == "none")) {
            let (Some(low), Some(high), Some(z_mm)) = (number(row, "hu_at_0_est"), number(row, "hu_at_255_est"), number(row, "z_mm"))
            else {
                continue;
            };
            let Some(file) = row.get("file") else { continue };
            match grey(&folder.join(file)) {
                Ok((width, height, grey)) => {
                    let hu = grey.iter().map(|g| low + f32::from(*g) / 255.0 * (high - low)).collect();
                    sections.push(Section { z_mm, width, height, hu, outline: outline(row) });
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
                    z_mm: index * 3.27,
                    width: image.cols,
                    height: image.rows,
                    hu: image.hu.iter().map(|v| f32::from(*v)).collect(),
                    outline: outline(row),
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
                pixel_mm: 0.977,
                sections,
                key,
            });
        }
    }
    Ok(lesions)
}

impl RealLesion {
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

    /// Puts the lesion with all that was photographed round it somewhere into the crop, scaled and mirrored. Its surroundings were not searched for
    /// other lesions and do not fit what lies beside them: they are returned as a region that counts neither way.
    pub fn paste(&self, planes: &mut Planes, rng: &mut impl Rng) -> Option<(Truth, [f32; 4])> {
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
        Some((self.truth(centre, half), [patch[0] - FADE_PX, patch[1] - FADE_PX, patch[2] + FADE_PX, patch[3] + FADE_PX]))
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
