//! Bodies made from nothing but a seed: backgrounds full of what looks like a lesion and is none.
//!
//! A standard body ([`body`]) with random organs, contrast phase and fat is warped, cut into slices with their thickness, blurred and given the
//! grain of a scanner ([`grain`]). Nothing of it is taken from a person.

mod blob;
mod body;
mod bowel;
mod breast;
mod canvas;
mod chest;
mod grain;
mod lattice;
mod node;
mod painter;
mod phase;
mod tissue;
mod tube;
mod vessels;
mod viscera;
mod wall;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use self::body::Body;
use self::canvas::Canvas;
use self::grain::Grain;
use self::lattice::Lattice;
use crate::lab::dataset::{Scan, ScanSlice};
use crate::lab::synthesize::places::site::{Part, Site, Sites};
use crate::volume::HuImage;
use crate::volume::body::body_box;
use crate::volume::frame::ImageGrid;

/// Heights of the standard body that a scan of each part may cover, mm.
const PARTS_MM: [(Part, [f32; 2]); 3] = [(Part::Pelvis, [-10.0, 190.0]), (Part::Abdomen, [185.0, 430.0]), (Part::Chest, [435.0, 600.0])];
/// Shares of the parts.
const SHARES: [u32; 3] = [16, 64, 20];
/// Slices of a scan.
const SLICES: std::ops::RangeInclusive<usize> = 12..=24;
/// Distance of slices, mm.
const SPACINGS_MM: [f32; 7] = [1.5, 2.0, 2.0, 2.5, 3.0, 4.0, 5.0];
/// Planes of which a slice is the mean lie at most this far apart, mm.
const PLANE_MM: f32 = 1.7;
/// Side of the squares at whose corners the warp is worked out; sizes are multiples of it.
const WARP_PX: usize = 4;
/// Air round the body on the image, mm.
const ROUND_MM: f32 = 14.0;
/// Side of the largest image, pixels.
const MOST_PIXELS: usize = 512;

/// First phantoms of neighbouring seeds lie this far apart, so that they share none.
const SEEDS_APART: u64 = 1_000_003;

/// The part of the body of a seed.
fn part(rng: &mut StdRng) -> (Part, [f32; 2]) {
    let draw = rng.random_range(0..100);
    if draw < SHARES[0] {
        PARTS_MM[0]
    } else if draw < SHARES[0] + SHARES[1] {
        PARTS_MM[1]
    } else {
        PARTS_MM[2]
    }
}

/// `count` bodies of seeds that follow from `seed`, made in parallel.
#[must_use]
pub fn scans(seed: u64, count: usize) -> Vec<Scan> {
    (0..count as u64).into_par_iter().map(|n| scan(seed.wrapping_mul(SEEDS_APART).wrapping_add(n))).collect()
}

/// Their names begin so.
const PREFIX: &str = "phantom-";

/// Whether a scan was made up here: nowhere else it is known what lies where.
#[must_use]
pub fn is_one(scan: &Scan) -> bool {
    scan.slices.iter().any(|s| s.sites.is_some())
}

/// A scan of one body; the same seed gives the same scan.
#[must_use]
pub fn scan(seed: u64) -> Scan {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x7068_616e_746f_6d00);
    let (part, [low, high]) = part(&mut rng);
    let count = rng.random_range(SLICES);
    let spacing = SPACINGS_MM[rng.random_range(0..SPACINGS_MM.len())];
    let thickness = spacing * rng.random_range(0.6f32..1.6);
    let length = spacing * (count - 1) as f32;
    let first = low + rng.random_range(0.0..1.0) * (high - low - length).max(0.0);
    let body = Body::random(&mut rng, &mut StdRng::seed_from_u64(!seed));
    let lattice = Lattice::random(&mut rng);
    let scale = rng.random_range(0.9..1.16);
    // Half of the body's width, with its fat, decides on the field of view.
    let half = [0.0, 0.5, 1.0].map(|t| body.half_mm(first + t * length)[0]).into_iter().fold(0.0, f32::max) * scale + ROUND_MM;
    let pixel = rng.random_range(0.68f32..0.92).max(2.0 * half / MOST_PIXELS as f32);
    let size = ((2.0 * half / pixel) as usize / 8 * 8 + 8).min(MOST_PIXELS);
    let pose = Pose::random(&mut rng, scale, pixel, size);
    let mut grain = Grain::random(&mut rng, size, pixel, spacing, thickness);
    let planes = ((thickness / PLANE_MM).ceil() as usize).clamp(1, 4);
    let slices = (0..count)
        .map(|n| {
            let z = first + spacing * n as f32;
            let mut mean = vec![0.0; size * size];
            let mut site = Vec::new();
            for k in 0..planes {
                let dz = ((k as f32 + 0.5) / planes as f32 - 0.5) * thickness;
                let plane = pose.plane(&body, &lattice, z + dz);
                for (m, hu) in mean.iter_mut().zip(plane.hu) {
                    *m += hu / planes as f32;
                }
                if k == planes / 2 {
                    site = plane.site;
                }
            }
            pose.table(&mut mean);
            let hu = grain.slice(&mut rng, mean).into_iter().map(|v| v.round().clamp(-1024.0, 3071.0) as i16).collect();
            let image = HuImage { rows: size, cols: size, hu };
            let box_px = body_box(&image);
            let sites = Sites::known(part, body.muscle_hu(), box_px, [size; 2], |[x, y]| site[y * size + x]);
            ScanSlice {
                image,
                z_mm: f64::from(spacing) * n as f64,
                body: box_px,
                disease: Vec::new(),
                sop_uid: String::new(),
                number: n as u32 + 1,
                sites: Some(sites),
            }
        })
        .collect();
    let grid = ImageGrid { rows: size, cols: size, spacing_mm: [f64::from(pixel); 2] };
    Scan { name: format!("{PREFIX}{seed}"), grid, spacing_mm: f64::from(spacing), slices }
}

/// One plane of a body.
struct Painted {
    hu: Vec<f32>,
    /// Which lesions grow at each pixel.
    site: Vec<Option<Site>>,
}

/// How a body lies on the table.
struct Pose {
    size: usize,
    /// mm of the standard body a pixel.
    pixel_mm: f32,
    sin: f32,
    cos: f32,
    shift: [f32; 2],
    /// Amplitude of the warp: of whole organs, of their outlines.
    warp_mm: [f32; 2],
    /// Top of the table, pixels; its HU.
    table: Option<(f32, f32)>,
}

impl Pose {
    fn random(rng: &mut StdRng, scale: f32, pixel: f32, size: usize) -> Self {
        let (sin, cos) = rng.random_range(-0.07f32..0.07).sin_cos();
        Self {
            size,
            pixel_mm: pixel / scale,
            sin,
            cos,
            shift: [rng.random_range(-6.0..6.0), rng.random_range(-10.0..10.0)],
            warp_mm: [rng.random_range(3.0..8.0), rng.random_range(0.8..2.2)],
            table: rng.random_bool(0.7).then(|| (rng.random_range(0.88..0.99) * size as f32, rng.random_range(-400.0..150.0))),
        }
    }

    /// Where pixel `x`, `y` of the plane at `z` lies in the standard body, mm.
    fn warped(&self, lattice: &Lattice, [x, y]: [f32; 2], z: f32) -> [f32; 2] {
        let half = self.size as f32 / 2.0;
        let (dx, dy) = ((x - half) * self.pixel_mm, (y - half) * self.pixel_mm);
        let p = [dx * self.cos + dy * self.sin + self.shift[0], dy * self.cos - dx * self.sin + self.shift[1], z];
        let far = [p[0] + 400.0, p[1] + 300.0, z + 200.0];
        let near = [p[0] - 250.0, p[1] + 150.0, z - 500.0];
        let warp = |turn: usize| {
            let swap = |p: [f32; 3]| if turn == 0 { p } else { [p[1] + 91.0, p[2] + 37.0, p[0] + 53.0] };
            self.warp_mm[0] * lattice.at(swap(far), 70.0) + self.warp_mm[1] * lattice.at(swap(near), 17.0)
        };
        [p[0] + warp(0), p[1] + warp(1)]
    }

    fn plane(&self, body: &Body, lattice: &Lattice, z: f32) -> Painted {
        let size = self.size;
        // The warp is smooth: it is worked out at the corners of squares and interpolated between them.
        let corners = size / WARP_PX + 1;
        let corner: Vec<[f32; 2]> = (0..corners * corners)
            .map(|i| self.warped(lattice, [(i % corners * WARP_PX) as f32, (i / corners * WARP_PX) as f32], z))
            .collect();
        let mut at = Vec::with_capacity(size * size);
        for y in 0..size {
            let (row, v) = (y / WARP_PX, (y % WARP_PX) as f32 / WARP_PX as f32);
            for x in 0..size {
                let (i, u) = (row * corners + x / WARP_PX, (x % WARP_PX) as f32 / WARP_PX as f32);
                at.push(std::array::from_fn(|axis| {
                    let across = |i: usize| corner[i][axis] + (corner[i + 1][axis] - corner[i][axis]) * u;
                    let (above, below) = (across(i), across(i + corners));
                    above + (below - above) * v
                }));
            }
        }
        let blank = || vec![0.0; size * size];
        let mut canvas = Canvas {
            size,
            z,
            at: &at,
            pixel_mm: self.pixel_mm,
            lattice,
            hu: blank(),
            cavity: blank(),
            above: blank(),
            site: vec![None; size * size],
        };
        body.paint(&mut canvas);
        Painted { hu: canvas.hu, site: canvas.site }
    }

    /// The table's shells, curved, wherever the body leaves them free.
    fn table(&self, plane: &mut [f32]) {
        let Some((top, hu)) = self.table else { return };
        let half = self.size as f32 / 2.0;
        for x in 0..self.size {
            let dx = (x as f32 - half) / half;
            for y in [top, top + 1.0, top + 14.0] {
                let y = y - 0.09 * self.size as f32 * dx * dx;
                let i = y.max(0.0) as usize * self.size + x;
                if plane.get(i).is_some_and(|v| *v < -900.0) {
                    plane[i] = hu;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SITES: [Site; 8] =
        [Site::Lung, Site::Parenchyma, Site::Kidney, Site::Fat, Site::Subcutaneous, Site::Muscle, Site::Bone, Site::Gland];

    /// The places of every slice of twelve bodies: known, and told from its image as in real scans.
    fn survey() -> (Vec<Sites>, Vec<Sites>) {
        let scans: Vec<Scan> = (0..12).into_par_iter().map(scan).collect();
        let of = |find: fn(&Scan, &ScanSlice) -> Sites| {
            scans.par_iter().flat_map_iter(|scan| scan.slices.iter().map(move |slice| find(scan, slice))).collect()
        };
        (of(Sites::find), of(Sites::told))
    }

    #[test]
    fn a_lesion_finds_every_kind_of_place() {
        let (known, told) = survey();
        let all = known.len();
        let find = |sites: &[Sites], site: Site| sites.iter().filter(|s| s.of(site).len() > 20).count();
        for part in [Part::Chest, Part::Abdomen, Part::Pelvis] {
            for sites in [&known, &told] {
                let of = sites.iter().filter(|s| s.part == part).count();
                assert!(of * 20 > all, "{part:?}: {of} of {all} slices");
            }
        }
        for site in SITES {
            // Kidneys and glands lie in a short part of the body.
            let (found, least) = (find(&known, site), if matches!(site, Site::Kidney | Site::Gland) { 12 } else { 8 });
            assert!(found * least > all, "{site:?} in {found} of {all} slices");
            // A kidney is told where it is brighter than the liver: in some phases and in few slices only. A gland is never told.
            let (found, least) = (find(&told, site), if site == Site::Kidney { 50 } else { 8 });
            assert!(site == Site::Gland || found * least > all, "{site:?} told in {found} of {all} slices");
        }
    }

    #[test]
    fn places_told_from_an_image_are_what_they_are_told_to_be() {
        let (known, told) = survey();
        // Fat round a kidney and in bone's canal is told as any other, discs and the canal as bone.
        let least = [0.98, 0.85, 0.75, 0.6, 0.8, 0.9, 0.7];
        for (site, least) in SITES.into_iter().zip(least) {
            let (mut right, mut all) = (0, 0);
            for (known, told) in known.iter().zip(&told) {
                let known: HashSet<[u16; 2]> = known.of(site).iter().copied().collect();
                all += told.of(site).len();
                right += told.of(site).iter().filter(|p| known.contains(*p)).count();
            }
            let share = right as f64 / all as f64;
            assert!(share > least, "{share:.3} of what is told to be {site:?}");
        }
    }

    #[test]
    fn a_seed_is_a_body() {
        let (a, b, c) = (scan(5), scan(5), scan(6));
        assert!(a.slices.iter().zip(&b.slices).all(|(a, b)| a.image == b.image));
        assert!(a.slices[0].image != c.slices[0].image);
        assert!(a.slices.windows(2).all(|w| w[1].z_mm > w[0].z_mm));
        assert!((12..=24).contains(&a.slices.len()) && (1.5..=5.0).contains(&a.spacing_mm));
    }

    /// What is bright in one slice goes on in the next: structures are bodies, not pictures.
    #[test]
    fn slices_belong_together() {
        for seed in 0..4 {
            let scan = scan(seed);
            let bone = |n: usize| scan.slices[n].image.hu.iter().map(|v| f64::from(i16::from(*v > 300))).collect::<Vec<_>>();
            let overlap = |a: &[f64], b: &[f64]| {
                let both: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                both / (a.iter().sum::<f64>() * b.iter().sum::<f64>()).sqrt().max(1.0)
            };
            let last = scan.slices.len() - 1;
            let near: f64 = (0..last).map(|n| overlap(&bone(n), &bone(n + 1))).sum::<f64>() / last as f64;
            // Ribs cross a 5 mm gap by half of their width.
            assert!(near > 0.35 && near > 1.1 * overlap(&bone(0), &bone(last)), "seed {seed}: {near}");
        }
    }
}
