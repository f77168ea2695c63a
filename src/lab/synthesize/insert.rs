//! Painting a lesion into the planes of a crop. What was there keeps its noise: only the smooth part of the tissue is replaced.

use rand::Rng;

use super::Planes;
use super::mask::parts;
use super::shape::Shape;

/// Radius of the blur that separates tissue from noise, pixels.
const BLUR_PX: usize = 3;
/// Noise beyond this is structure (an edge, a vessel), HU.
const NOISE_CAP_HU: f32 = 45.0;
/// Lung and air.
const AIR_HU: f32 = -300.0;
/// Soft tissue, with its noise.
const SOFT_HU: std::ops::Range<f32> = -60.0..170.0;
/// Side of a square of soft tissue that noise is taken from, pixels.
const GRAIN_PX: usize = 16;
/// Squares that are looked at.
const GRAIN_DRAWS: usize = 40;
/// What is darker than a yielding lesion by this gives way to it, all of it and none of it, HU.
const GIVES_WAY_HU: [f32; 2] = [45.0, 15.0];
/// Air does not, and what is less than this above it only in part, HU: nothing grows out of the body, or from fat into lung.
const GIVES_NO_WAY_HU: f32 = 100.0;
/// A lesion that finds less room than this share of its section is not painted.
const LEAST_ROOM: f32 = 0.45;

/// How a lesion looks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Mean HU, or difference to the tissue where `delta`.
    pub hu: f32,
    /// `hu` is relative.
    pub delta: bool,
    /// Amplitude of its texture.
    pub texture_hu: f32,
    /// HU added to the outer part (a rim) and taken from the core.
    pub rim_hu: f32,
    /// HU taken from the parts of the core that get no blood.
    pub necrosis_hu: f32,
    /// It fills the room that darker tissue leaves, as a node in fat does, and covers neither air nor what is about as dense as itself.
    pub yields: bool,
}

impl Look {
    /// The same all through, on whatever lies there.
    #[must_use]
    pub fn even(hu: f32, delta: bool, texture_hu: f32) -> Self {
        Self { hu, delta, texture_hu, rim_hu: 0.0, necrosis_hu: 0.0, yields: false }
    }
}

/// What a scan's slices do to what is painted.
#[derive(Debug, Clone, Copy)]
pub struct Slices {
    /// Of one slice, mm.
    pub thickness_mm: f32,
    /// Each plane keeps its own noise under a lesion; otherwise the middle plane's goes through all.
    pub own_noise: bool,
    /// Where there was air, noise is that of soft tissue elsewhere in the planes; otherwise it is white.
    pub borrowed_grain: bool,
}

impl Slices {
    /// Of this thickness, each with its own noise.
    #[must_use]
    pub fn of(thickness_mm: f32) -> Self {
        Self { thickness_mm, own_noise: true, borrowed_grain: true }
    }
}

/// Paints `shape` with its centre at `centre` (pixels of the planes; z in mm as their offsets) into all planes.
pub fn paint(planes: &mut Planes, shape: &Shape, centre: [f32; 3], look: Look, slices: Slices, rng: &mut impl Rng) {
    let (size, pixel_mm, thickness_mm) = (planes.size, planes.pixel_mm, slices.thickness_mm);
    let Some((x1, y1, x2, y2)) = span(planes, shape, centre) else { return };
    let middle = planes.hu.len() / 2;
    let grain = Grain::of(planes, slices, middle, (x1, y1, x2, y2), rng);
    let samples: &[f32] = if thickness_mm > 2.5 { &[-0.35, 0.0, 0.35] } else { &[0.0] };
    let shared = (!slices.own_noise).then(|| {
        let smooth = blur(&planes.hu[middle], size, (x1, y1, x2, y2));
        let at = |j: usize| (x1 + j % (x2 - x1), y1 + j / (x2 - x1));
        let noise = |(j, tissue): (usize, &f32)| {
            let (x, y) = at(j);
            grain.under(planes.hu[middle][y * size + x], *tissue, middle, (x, y), rng)
        };
        smooth.iter().enumerate().map(noise).collect::<Vec<f32>>()
    });
    for (n, (plane, offset)) in planes.hu.iter_mut().zip(&planes.offsets_mm).enumerate() {
        let at = |x: usize, y: usize| [(x as f32 - centre[0]) * pixel_mm, (y as f32 - centre[1]) * pixel_mm, offset - centre[2]];
        let cover = |(x, y)| {
            let (mut alpha, mut depth) = (0.0, 0.0);
            let p = at(x, y);
            for s in samples {
                let (a, d) = shape.at([p[0], p[1], p[2] + s * thickness_mm]);
                alpha += a / samples.len() as f32;
                depth += d / samples.len() as f32;
            }
            (alpha, depth)
        };
        let mut covers: Vec<(f32, f32)> = (y1..y2).flat_map(|y| (x1..x2).map(move |x| (x, y))).map(cover).collect();
        let smooth = if look.yields {
            let room = Room::of(plane, size, (x1, y1, x2, y2), look.hu);
            covers.iter_mut().zip(&room.share).for_each(|((alpha, _), share)| *alpha *= share);
            room.tissue(plane, size, |j| covers[j].0 > 0.0)
        } else {
            blur(plane, size, (x1, y1, x2, y2))
        };
        for y in y1..y2 {
            for x in x1..x2 {
                let i = y * size + x;
                let j = (y - y1) * (x2 - x1) + x - x1;
                let (alpha, depth) = covers[j];
                if alpha <= 0.0 {
                    continue;
                }
                let (p, tissue) = (at(x, y), smooth[j]);
                let noise = shared.as_ref().map_or_else(|| grain.under(plane[i], tissue, n, (x, y), rng), |s| s[j]);
                let rim = if depth < 0.35 { look.rim_hu } else { -look.rim_hu };
                let base = if look.delta { tissue.clamp(-150.0, 250.0) } else { 0.0 };
                let dead = look.necrosis_hu * shape.necrosis(p, depth);
                let target = base + look.hu + look.texture_hu * shape.texture(p) + rim - dead + noise;
                plane[i] += alpha * (target - plane[i]);
            }
        }
    }
}

/// Noise that stands under a lesion.
enum Grain {
    /// What the tissue had, and where that was air, where it is vessels and not noise, white up to this, HU.
    White(f32),
    /// What the tissue had, and where that was air, that of a square of soft tissue, of every plane its own: as rough and as alike from plane to plane as
    /// the scan is.
    Borrowed(Vec<Vec<f32>>),
}

impl Grain {
    /// For a window of the planes. White where the window holds no air, where no soft tissue is found, and where that is asked for.
    fn of(planes: &Planes, slices: Slices, middle: usize, (x1, y1, x2, y2): (usize, usize, usize, usize), rng: &mut impl Rng) -> Self {
        let white = Self::White(rng.random_range(4.0f32..18.0));
        let plane = &planes.hu[middle];
        let in_air = (y1..y2).any(|y| plane[y * planes.size + x1..y * planes.size + x2].iter().any(|v| *v < AIR_HU));
        if !slices.borrowed_grain || !in_air || planes.size <= GRAIN_PX {
            return white;
        }
        let soft = |x: usize, y: usize| SOFT_HU.contains(&plane[y * planes.size + x]);
        for _ in 0..GRAIN_DRAWS {
            let [x, y] = [0, 1].map(|_| rng.random_range(0..planes.size - GRAIN_PX));
            let looked = (0..GRAIN_PX).step_by(3).flat_map(|dy| (0..GRAIN_PX).step_by(3).map(move |dx| (x + dx, y + dy)));
            let (all, within) = looked.fold((0, 0), |(all, within), (x, y)| (all + 1, within + usize::from(soft(x, y))));
            if within * 20 >= all * 19 {
                let square = (x, y, x + GRAIN_PX, y + GRAIN_PX);
                return Self::Borrowed(planes.hu.iter().map(|plane| residual(plane, planes.size, square)).collect());
            }
        }
        white
    }

    /// Noise at a pixel of plane `n` that has `value` among `tissue`.
    fn under(&self, value: f32, tissue: f32, n: usize, (x, y): (usize, usize), rng: &mut impl Rng) -> f32 {
        if tissue > AIR_HU {
            return (value - tissue).clamp(-NOISE_CAP_HU, NOISE_CAP_HU);
        }
        match self {
            Self::White(most) => (rng.random::<f32>() - 0.5) * 2.0 * most,
            Self::Borrowed(squares) => squares[n][there_and_back(y) * GRAIN_PX + there_and_back(x)],
        }
    }
}

/// 0, 1, … [`GRAIN_PX`] - 1 and back again, so that squares side by side have no seam.
fn there_and_back(i: usize) -> usize {
    let at = i % (2 * GRAIN_PX);
    at.min(2 * GRAIN_PX - 1 - at)
}

/// What the smooth tissue leaves of a window of the plane.
fn residual(plane: &[f32], size: usize, window: (usize, usize, usize, usize)) -> Vec<f32> {
    let (x1, y1, x2, _) = window;
    let value = |j: usize| plane[(y1 + j / (x2 - x1)) * size + x1 + j % (x2 - x1)];
    let smooth = blur(plane, size, window);
    smooth.iter().enumerate().map(|(j, tissue)| (value(j) - tissue).clamp(-NOISE_CAP_HU, NOISE_CAP_HU)).collect()
}

/// Where what [`paint`] is about to paint will lie on one of the planes: inside its surface, whatever the edge. `size * size` values. Of a lesion that yields
/// it is the largest connected part, and nothing where that is less than [`LEAST_ROOM`] of its shape.
#[must_use]
pub fn section(planes: &Planes, plane: usize, shape: &Shape, centre: [f32; 3], look: Look) -> Vec<bool> {
    let (size, pixel_mm) = (planes.size, planes.pixel_mm);
    let mut mask = vec![false; size * size];
    let Some(window) = span(planes, shape, centre) else { return mask };
    let (x1, y1, x2, y2) = window;
    for y in y1..y2 {
        for x in x1..x2 {
            let p = [(x as f32 - centre[0]) * pixel_mm, (y as f32 - centre[1]) * pixel_mm, planes.offsets_mm[plane] - centre[2]];
            mask[y * size + x] = shape.at(p).0 > 0.5;
        }
    }
    if !look.yields {
        return mask;
    }
    let whole = mask.iter().filter(|m| **m).count();
    let room = Room::of(&planes.hu[plane], size, window, look.hu);
    for (j, share) in room.share.iter().enumerate() {
        mask[(y1 + j / (x2 - x1)) * size + x1 + j % (x2 - x1)] &= *share > 0.5;
    }
    let part = largest_part(&mask, size);
    if (part.iter().filter(|m| **m).count() as f32) < LEAST_ROOM * whole as f32 { vec![false; size * size] } else { part }
}

/// Of a mask the largest part that is connected by sides.
fn largest_part(mask: &[bool], width: usize) -> Vec<bool> {
    let mut out = vec![false; mask.len()];
    let largest = parts(mask, width).into_iter().max_by_key(Vec::len);
    largest.into_iter().flatten().for_each(|i| out[i] = true);
    out
}

/// What gives way to a yielding lesion, of a window of one plane.
struct Room {
    window: (usize, usize, usize, usize),
    /// Of each pixel of the window, 0..1.
    share: Vec<f32>,
}

impl Room {
    /// For a lesion of `hu`; a pixel is as dense as the 3 × 3 round it.
    fn of(plane: &[f32], size: usize, window: (usize, usize, usize, usize), hu: f32) -> Self {
        let (x1, y1, x2, y2) = window;
        let [all, none] = GIVES_WAY_HU.map(|d| hu - d);
        let share = (y1..y2).flat_map(|y| (x1..x2).map(move |x| (x, y))).map(|(x, y)| {
            let mean = mean_of(plane, size, (x, y), 1, |_| true).unwrap_or(plane[y * size + x]);
            ((none - mean) / (none - all)).clamp(0.0, 1.0) * ((mean - AIR_HU) / GIVES_NO_WAY_HU).clamp(0.0, 1.0)
        });
        Self { window, share: share.collect() }
    }

    /// The smooth tissue of what gives way, at the points of the window that are wanted; elsewhere nothing.
    fn tissue(&self, plane: &[f32], size: usize, wanted: impl Fn(usize) -> bool) -> Vec<f32> {
        let (x1, y1, x2, y2) = self.window;
        let dark = |i: usize| {
            let (x, y) = (i % size, i / size);
            (x1..x2).contains(&x) && (y1..y2).contains(&y) && self.share[(y - y1) * (x2 - x1) + x - x1] > 0.5
        };
        let at = (y1..y2).flat_map(|y| (x1..x2).map(move |x| (x, y)));
        let smooth = |at: (usize, usize)| mean_of(plane, size, at, BLUR_PX, dark).unwrap_or(plane[at.1 * size + at.0]);
        at.enumerate().map(|(j, at)| if wanted(j) { smooth(at) } else { 0.0 }).collect()
    }
}

/// Mean of the pixels of a square of this radius that are wanted, if there are any.
fn mean_of(plane: &[f32], size: usize, (x, y): (usize, usize), radius: usize, wanted: impl Fn(usize) -> bool) -> Option<f32> {
    let (mut sum, mut n) = (0.0, 0.0);
    for y in y.saturating_sub(radius)..(y + radius + 1).min(size) {
        for x in x.saturating_sub(radius)..(x + radius + 1).min(size) {
            if wanted(y * size + x) {
                (sum, n) = (sum + plane[y * size + x], n + 1.0);
            }
        }
    }
    (n > 0.0).then(|| sum / n)
}

/// Columns and rows that `shape` can reach: first x, first y, then the ends.
fn span(planes: &Planes, shape: &Shape, centre: [f32; 3]) -> Option<(usize, usize, usize, usize)> {
    let reach = (shape.reach_mm() / planes.pixel_mm).ceil();
    let along = |c: f32| ((c - reach).max(0.0) as usize, ((c + reach).max(0.0) as usize + 1).min(planes.size));
    let ((x1, x2), (y1, y2)) = (along(centre[0]), along(centre[1]));
    (x1 < x2 && y1 < y2).then_some((x1, y1, x2, y2))
}

/// Mean over a square of [`BLUR_PX`], of a window of the plane.
fn blur(plane: &[f32], size: usize, (x1, y1, x2, y2): (usize, usize, usize, usize)) -> Vec<f32> {
    let (w, h) = (x2 - x1, y2 - y1);
    let mut across = vec![0.0; w * h];
    for y in 0..h {
        let row = &plane[(y + y1) * size..(y + y1 + 1) * size];
        for x in 0..w {
            let (a, b) = ((x + x1).saturating_sub(BLUR_PX), (x + x1 + BLUR_PX + 1).min(size));
            across[y * w + x] = row[a..b].iter().sum::<f32>() / (b - a) as f32;
        }
    }
    let mut out = vec![0.0; w * h];
    for y in 0..h {
        let (a, b) = (y.saturating_sub(BLUR_PX), (y + BLUR_PX + 1).min(h));
        for x in 0..w {
            out[y * w + x] = (a..b).map(|r| across[r * w + x]).sum::<f32>() / (b - a) as f32;
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::lab::synthesize::kind::{Drawn, Kind, table};
    use crate::lab::synthesize::mask::distance;
    use crate::lab::synthesize::places::site::{MUSCLE_HU, Site};
    use crate::lab::synthesize::recist;

    const SIZE: usize = 160;
    const PIXEL_MM: f32 = 0.8;
    const STEP_MM: f32 = 2.0;
    const PLANES: usize = 9;
    /// Of the phantom's own noise, HU.
    const NOISE_HU: f32 = 12.0;
    const SEEDS: u64 = 12;

    /// HU of the tissue that a kind lies in.
    fn tissue_hu(kind: &Kind) -> f32 {
        match kind.site {
            Site::Lung => -850.0,
            Site::Parenchyma => 105.0,
            Site::Kidney => 170.0,
            Site::Fat | Site::Subcutaneous => -100.0,
            Site::Muscle => 55.0,
            Site::Gland => 85.0,
            Site::Bone => 240.0,
        }
    }

    fn normal(rng: &mut StdRng) -> f32 {
        (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
    }

    /// Even tissue with noise of [`NOISE_HU`], of which neighbouring planes share `shared` (the correlation).
    fn phantom(hu: f32, shared: f32, rng: &mut StdRng) -> Planes {
        let mut last: Vec<f32> = (0..SIZE * SIZE).map(|_| normal(rng)).collect();
        let mut planes = Vec::new();
        for _ in 0..PLANES {
            for v in &mut last {
                *v = *v * shared + normal(rng) * (1.0 - shared * shared).sqrt();
            }
            planes.push(last.iter().map(|n| hu + n * NOISE_HU).collect());
        }
        let offsets_mm = (0..PLANES).map(|i| (i as f32 - (PLANES / 2) as f32) * STEP_MM).collect();
        Planes { size: SIZE, pixel_mm: PIXEL_MM, hu: planes, offsets_mm }
    }

    const CENTRE: [f32; 3] = [79.5, 80.25, 0.0];

    /// One lesion of a size that the phantom holds.
    fn draw(kind: &Kind, rng: &mut StdRng) -> Drawn {
        loop {
            let drawn = kind.draw(rng, MUSCLE_HU);
            if drawn.shape.reach_mm() < 58.0 {
                return drawn;
            }
        }
    }

    /// Pixels of a plane whose share of lesion is whole and that lie deep or shallow enough.
    fn pixels(planes: &Planes, plane: usize, drawn: &Drawn, depth: std::ops::Range<f32>) -> Vec<usize> {
        let at = |i: usize| {
            let (x, y) = ((i % SIZE) as f32, (i / SIZE) as f32);
            drawn.shape.at([(x - CENTRE[0]) * PIXEL_MM, (y - CENTRE[1]) * PIXEL_MM, planes.offsets_mm[plane]])
        };
        (0..SIZE * SIZE).filter(|i| matches!(at(*i), (a, d) if a >= 1.0 && depth.contains(&d))).collect()
    }

    fn mean(values: &[f32]) -> f32 {
        values.iter().sum::<f32>() / values.len().max(1) as f32
    }

    fn deviation(values: &[f32]) -> f32 {
        let m = mean(values);
        (values.iter().map(|v| (v - m).powi(2)).sum::<f32>() / values.len().max(1) as f32).sqrt()
    }

    fn correlation(a: &[f32], b: &[f32]) -> f32 {
        let (ma, mb) = (mean(a), mean(b));
        let both: f32 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum::<f32>() / a.len().max(1) as f32;
        both / (deviation(a) * deviation(b)).max(1e-6)
    }

    /// The core's mean is what was asked of it, within the texture's amplitude and 4 HU; over the seeds it is right on average within 6 HU.
    #[test]
    fn the_core_has_the_hu_that_was_asked_for() {
        for kind in table().unwrap() {
            let mut errors = Vec::new();
            for seed in 0..SEEDS {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut drawn = draw(&kind, &mut rng);
                drawn.look.necrosis_hu = 0.0;
                let mut planes = phantom(tissue_hu(&kind), 0.0, &mut rng);
                paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut rng);
                let look = drawn.look;
                // A rim takes from the core what it adds outside.
                let asked = look.hu + if look.delta { tissue_hu(&kind) } else { 0.0 } - look.rim_hu;
                let core: Vec<f32> = pixels(&planes, PLANES / 2, &drawn, 0.35..2.0).iter().map(|i| planes.hu[PLANES / 2][*i]).collect();
                if core.len() < 9 {
                    continue;
                }
                let error = mean(&core) - asked;
                let slack = look.texture_hu + 4.0 + 3.0 * NOISE_HU / (core.len() as f32).sqrt();
                assert!(error.abs() <= slack, "{} seed {seed}: core {:.1} HU, asked {asked:.1}, slack {slack:.1}", kind.name, mean(&core));
                errors.push(error / look.texture_hu.max(4.0));
            }
            assert!(errors.len() as u64 >= SEEDS / 2, "{}: only {} lesions have a core", kind.name, errors.len());
            assert!(mean(&errors).abs() < 0.4, "{}: off by {:.2} of its texture on average", kind.name, mean(&errors));
        }
    }

    #[test]
    fn dead_parts_are_darker_than_the_rest() {
        let kind = table().unwrap().into_iter().find(|k| k.name == "conglomerate mass").unwrap();
        let mut rng = StdRng::seed_from_u64(5);
        let mut drawn = draw(&kind, &mut rng);
        (drawn.look.necrosis_hu, drawn.look.texture_hu, drawn.look.rim_hu) = (40.0, 0.0, 0.0);
        let mut planes = phantom(-100.0, 0.0, &mut rng);
        paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut rng);
        let of = |depth| mean(&pixels(&planes, PLANES / 2, &drawn, depth).iter().map(|i| planes.hu[PLANES / 2][*i]).collect::<Vec<_>>());
        assert!(of(0.6..2.0) < of(0.0..0.2) - 15.0, "{} {}", of(0.6..2.0), of(0.0..0.2));
    }

    /// The long axis of the section through the centre, on the mask and on the pixels, is what was asked within 1.5 mm or 10 %.
    #[test]
    fn the_long_axis_is_as_long_as_was_asked_for() {
        for kind in table().unwrap() {
            for seed in 0..SEEDS {
                let mut rng = StdRng::seed_from_u64(seed + 100);
                let mut drawn = draw(&kind, &mut rng);
                let mut planes = phantom(tissue_hu(&kind), 0.0, &mut rng);
                let long = |mask: &[bool]| recist::measure(mask, SIZE, 1, 0).unwrap().axes_px.unwrap()[0] * PIXEL_MM;
                let mask = long(&section(&planes, PLANES / 2, &drawn.shape, CENTRE, drawn.look));
                let slack = (0.1 * drawn.long_mm).max(1.5);
                assert!((mask - drawn.long_mm).abs() <= slack, "{} seed {seed}: {mask:.1} mm, asked {:.1}", kind.name, drawn.long_mm);
                // What can be seen ends where the mask does: half way between lesion and tissue, without noise and texture.
                planes.hu.iter_mut().for_each(|p| p.fill(tissue_hu(&kind)));
                (drawn.look.texture_hu, drawn.look.rim_hu, drawn.look.necrosis_hu) = (0.0, 0.0, 0.0);
                paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut rng);
                if kind.site == Site::Lung {
                    continue; // Its noise is the painter's own.
                }
                let lesion_hu = drawn.look.hu + if drawn.look.delta { tissue_hu(&kind) } else { 0.0 };
                let half = (lesion_hu - tissue_hu(&kind)) / 2.0;
                let seen: Vec<bool> = planes.hu[PLANES / 2].iter().map(|v| (v - tissue_hu(&kind)) / half > 1.0).collect();
                assert!((long(&seen) - mask).abs() <= 1.7, "{} seed {seed}: seen {:.1} mm, mask {mask:.1}", kind.name, long(&seen));
            }
        }
    }

    /// In soft tissue the noise under a lesion is the scan's: within 25 % of its amplitude, and from plane to plane no more alike than outside.
    #[test]
    fn the_noise_inside_is_that_of_the_scan() {
        for kind in table().unwrap() {
            let mut compared = 0;
            for (seed, shared) in (0..SEEDS).flat_map(|s| [(s, 0.0), (s, 0.6)]) {
                let mut rng = StdRng::seed_from_u64(seed + 200);
                let mut drawn = draw(&kind, &mut rng);
                (drawn.look.texture_hu, drawn.look.rim_hu, drawn.look.necrosis_hu) = (0.0, 0.0, 0.0);
                let mut planes = phantom(tissue_hu(&kind), shared, &mut rng);
                paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut rng);
                let (here, above) = (PLANES / 2, PLANES / 2 + 1);
                let inside: HashSet<usize> = pixels(&planes, here, &drawn, 0.0..2.0).into_iter().collect();
                let both: Vec<usize> = pixels(&planes, above, &drawn, 0.0..2.0).into_iter().filter(|i| inside.contains(i)).collect();
                if both.len() < 100 {
                    continue;
                }
                compared += 1;
                let values = |plane: usize| both.iter().map(|i| planes.hu[plane][*i]).collect::<Vec<_>>();
                let alike = correlation(&values(here), &values(above));
                // Four standard errors of a correlation over so many pixels.
                let most = if kind.site == Site::Lung { 0.0 } else { shared } + 4.0 / (both.len() as f32).sqrt();
                assert!(alike <= most, "{} seed {seed}: planes correlate by {alike:.2}, the scan by {shared:.2}", kind.name);
                if kind.site != Site::Lung {
                    let ratio = deviation(&values(here)) / NOISE_HU;
                    assert!((0.75..1.25).contains(&ratio), "{} seed {seed}: noise {ratio:.2} of the scan's", kind.name);
                }
            }
            assert!(compared >= 4, "{}: only {compared} lesions are large enough to tell", kind.name);
        }
    }

    /// In lung it is that of the soft tissue there: as strong within 30 %, and as alike from plane to plane within 0.2.
    #[test]
    fn the_noise_of_a_nodule_is_that_of_soft_tissue() {
        let kind = table().unwrap().into_iter().find(|k| k.name == "solid nodule").unwrap();
        let mut compared = 0;
        for (seed, shared) in (0..SEEDS).flat_map(|s| [(s, 0.0), (s, 0.8)]) {
            let mut rng = StdRng::seed_from_u64(seed + 300);
            let mut drawn = draw(&kind, &mut rng);
            (drawn.look.texture_hu, drawn.look.rim_hu, drawn.look.necrosis_hu) = (0.0, 0.0, 0.0);
            let mut planes = phantom(50.0, shared, &mut rng);
            for plane in &mut planes.hu {
                plane[..SIZE * (SIZE - 40)].iter_mut().for_each(|v| *v -= 900.0);
            }
            paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut rng);
            let here = PLANES / 2;
            let inside: HashSet<usize> = pixels(&planes, here, &drawn, 0.0..2.0).into_iter().collect();
            let in_lung = |i: &usize| inside.contains(i) && i / SIZE < SIZE - 44;
            let both: Vec<usize> = pixels(&planes, here + 1, &drawn, 0.0..2.0).into_iter().filter(in_lung).collect();
            if both.len() < 150 {
                continue;
            }
            compared += 1;
            let values = |plane: usize| both.iter().map(|i| planes.hu[plane][*i]).collect::<Vec<_>>();
            let alike = correlation(&values(here), &values(here + 1));
            assert!(
                (alike - shared).abs() < 0.2 + 3.0 / (both.len() as f32).sqrt(),
                "seed {seed}: planes correlate by {alike:.2}, the scan by {shared:.2}"
            );
            let ratio = deviation(&values(here)) / NOISE_HU;
            assert!((0.7..1.3).contains(&ratio), "seed {seed}: noise {ratio:.2} of the scan's");
        }
        assert!(compared >= 8, "only {compared} lesions are large enough to tell");
    }

    /// What the recipe guards against: planes that give a painted lesion away by being alike.
    #[test]
    fn without_noise_of_its_own_a_plane_repeats_the_middle_one() {
        let kind = table().unwrap().into_iter().find(|k| k.name == "conglomerate mass").unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        let mut drawn = draw(&kind, &mut rng);
        (drawn.look.texture_hu, drawn.look.rim_hu, drawn.look.necrosis_hu) = (0.0, 0.0, 0.0);
        let mut planes = phantom(-100.0, 0.0, &mut rng);
        paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices { own_noise: false, ..Slices::of(1.0) }, &mut rng);
        let (here, above) = (PLANES / 2, PLANES / 2 + 1);
        let inside: HashSet<usize> = pixels(&planes, here, &drawn, 0.0..2.0).into_iter().collect();
        let both: Vec<usize> = pixels(&planes, above, &drawn, 0.0..2.0).into_iter().filter(|i| inside.contains(i)).collect();
        assert!(both.len() > 100);
        let values = |plane: usize| both.iter().map(|i| planes.hu[plane][*i]).collect::<Vec<_>>();
        assert!(correlation(&values(here), &values(above)) > 0.95);
    }

    /// A node in fat beside muscle, with a vessel through it.
    fn between_vessel_and_muscle() -> (Planes, Drawn, Vec<bool>) {
        let kind = table().unwrap().into_iter().find(|k| k.name == "node").unwrap();
        let mut rng = StdRng::seed_from_u64(11);
        let mut drawn = loop {
            let drawn = draw(&kind, &mut rng);
            if (25.0..35.0).contains(&drawn.long_mm) {
                break drawn;
            }
        };
        drawn.look = Look { yields: true, ..Look::even(45.0, false, 0.0) };
        let mut planes = phantom(-100.0, 0.0, &mut rng);
        let dense: Vec<bool> = (0..SIZE * SIZE)
            .map(|i| ((i % SIZE) as f32 - CENTRE[0] - 7.0).hypot((i / SIZE) as f32 - CENTRE[1]) < 5.0 || i / SIZE > SIZE / 2 + 8)
            .collect();
        for plane in &mut planes.hu {
            plane.iter_mut().zip(&dense).filter(|(_, d)| **d).for_each(|(v, _)| *v += 160.0);
        }
        (planes, drawn, dense)
    }

    #[test]
    fn a_lesion_that_yields_fills_the_fat_between_what_lies_there() {
        let (before, drawn, dense) = between_vessel_and_muscle();
        let here = PLANES / 2;
        let mask = section(&before, here, &drawn.shape, CENTRE, drawn.look);
        let mut planes = Planes { hu: before.hu.clone(), offsets_mm: before.offsets_mm.clone(), ..before };
        paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut StdRng::seed_from_u64(1));
        let deep = |i: &usize| dense[*i] && [i - 1, i + 1, i - SIZE, i + SIZE].iter().all(|j| dense[*j]);
        let covered = (SIZE..SIZE * (SIZE - 1)).filter(deep).filter(|i| planes.hu[here][*i] != before.hu[here][*i]).count();
        assert_eq!(covered, 0, "pixels of vessel and muscle");
        assert!((SIZE..SIZE * (SIZE - 1)).filter(deep).all(|i| !mask[i]));
        let filled: Vec<f32> =
            pixels(&planes, here, &drawn, 0.1..2.0).into_iter().filter(|i| mask[*i]).map(|i| planes.hu[here][i]).collect();
        assert!(filled.len() > 200 && (mean(&filled) - 45.0).abs() < 4.0, "{} pixels of {:.0} HU", filled.len(), mean(&filled));
        // Up to what is dense: no line of fat is left between.
        let gap = pixels(&planes, here, &drawn, 0.1..2.0).into_iter().filter(|i| !dense[*i] && planes.hu[here][*i] < -40.0).count();
        assert!(gap * 50 < filled.len(), "{gap} pixels of fat left of {}", filled.len());
        // Away from what is dense, where the edge is.
        let away = distance(&dense, SIZE);
        let inner = pixels(&planes, here, &drawn, 0.1..2.0).into_iter().filter(|i| mask[*i] && away[*i] > 4.0).map(|i| planes.hu[here][i]);
        let ratio = deviation(&inner.collect::<Vec<_>>()) / NOISE_HU;
        assert!((0.75..1.25).contains(&ratio), "noise {ratio:.2} of the scan's");
    }

    #[test]
    fn air_gives_no_way() {
        let (mut planes, drawn, _) = between_vessel_and_muscle();
        let here = PLANES / 2;
        let above = SIZE * (SIZE / 2 - 3);
        planes.hu.iter_mut().for_each(|p| p[..above].fill(-900.0));
        let before = planes.hu[here].clone();
        paint(&mut planes, &drawn.shape, CENTRE, drawn.look, Slices::of(1.0), &mut StdRng::seed_from_u64(1));
        // Its last row has fat beside it.
        assert_eq!(planes.hu[here][..above - SIZE], before[..above - SIZE]);
        assert!(planes.hu[here][above..].iter().zip(&before[above..]).filter(|(a, b)| a != b).count() > 100);
    }

    #[test]
    fn a_lesion_without_room_is_none() {
        let (mut planes, drawn, _) = between_vessel_and_muscle();
        planes.hu.iter_mut().for_each(|p| p[..SIZE * (SIZE / 2 - 2)].fill(60.0));
        assert!(section(&planes, PLANES / 2, &drawn.shape, CENTRE, drawn.look).iter().all(|m| !m));
        let covers = Look { yields: false, ..drawn.look };
        assert!(section(&planes, PLANES / 2, &drawn.shape, CENTRE, covers).iter().any(|m| *m));
    }
}
