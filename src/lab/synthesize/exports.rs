//! What 8 bits leave of a plane: archives, teaching files and public data sets often hold a window of HU as 8-bit JPEG, and what lies outside of it is gone.

use rand::Rng;

use super::jpeg::Jpeg;

/// Steps of the full range: 256 of 16 HU from here.
const FULL_RANGE_HU: [f32; 2] = [-1024.0, 3072.0];
/// A window that begins at water, and one of the whole abdomen.
const WATER_HU: [f32; 2] = [0.0, 255.0];
const ABDOMEN_HU: [f32; 2] = [-175.0, 275.0];
/// Below this a pixel was air, outside or in the body.
const AIR_HU: f32 = -300.0;
/// What air becomes where it was kept apart.
const AIR_FILL_HU: f32 = -1000.0;
/// Of a hundred samples, as many are the full range, a window that begins at water, one of the liver, one of the whole abdomen.
const SHARES: [i32; 4] = [14, 9, 9, 4];
/// Share of exports that are JPEG, the lossy one of the web; others are PNG or BMP.
const JPEG_SHARE: f64 = 0.7;

/// One way through 8 bits, the same for all planes of a series.
pub struct Export {
    /// Lowest and highest HU.
    window: [f32; 2],
    /// What stands for tissue below the window, in HU, where it was filled in; else it stays at the window's edge.
    fill: Option<Fill>,
    jpeg: Option<Jpeg>,
    /// Weight of each neighbour in a pixel: an export comes in the pixels of its scan, and is softened where it is resampled.
    softened: f32,
}

#[derive(Clone, Copy)]
struct Fill {
    tissue_hu: f32,
    /// Gas and lung in the body are air, too; else only what is outside of it is.
    gas: bool,
}

impl Export {
    /// None for the samples that stay as the scanner sends them.
    pub fn random(rng: &mut impl Rng, jpeg: bool) -> Option<Self> {
        let draw = rng.random_range(0..100);
        let kind = (0..SHARES.len()).find(|k| draw < SHARES[..=*k].iter().sum())?;
        let (window, filled) = match kind {
            0 => (FULL_RANGE_HU, false),
            1 => (WATER_HU, true),
            2 => ([rng.random_range(-60.0..-30.0), rng.random_range(105.0..200.0)], true),
            _ => (ABDOMEN_HU, false),
        };
        let fill = filled.then(|| Fill { tissue_hu: rng.random_range(-110.0..window[0].min(-10.0)), gas: rng.random_bool(0.5) });
        let jpeg = (jpeg && rng.random_bool(JPEG_SHARE)).then(|| Jpeg::random(rng));
        Some(Self { window, fill, jpeg, softened: rng.random_range(0.0..0.2) })
    }

    /// The exports that `bench exports` measures, and what they are called: none is softened, since the image keeps its own pixels.
    #[must_use]
    pub fn measured() -> Vec<(String, Self)> {
        let liver = Fill { tissue_hu: -100.0, gas: true };
        let kidney = Fill { tissue_hu: -50.0, gas: true };
        let windows = [
            ("full range, steps of 16 HU", FULL_RANGE_HU, None),
            ("0 to 255 HU, filled below", WATER_HU, Some(kidney)),
            ("-45 to 160 HU, filled below", [-45.0, 160.0], Some(liver)),
            ("-175 to 275 HU", ABDOMEN_HU, None),
        ];
        let mut all = Vec::new();
        for (name, window, fill) in windows {
            for quality in [None, Some(90), Some(75)] {
                let text = quality.map_or_else(|| name.to_owned(), |q| format!("{name}, JPEG {q}"));
                all.push((text, Self { window, fill, jpeg: quality.map(|q| Jpeg::new(q, [0, 0])), softened: 0.0 }));
            }
        }
        all
    }

    /// `plane`: HU, `width` pixels a row.
    pub fn apply(&self, plane: &mut [f32], width: usize) {
        let [low, high] = self.window;
        let step = (high - low) / 255.0;
        let mut grey: Vec<f32> = plane.iter().map(|v| ((v - low) / step).round().clamp(0.0, 255.0)).collect();
        if let Some(jpeg) = &self.jpeg {
            jpeg.apply(&mut grey, width);
        }
        let air = self.fill.as_ref().map(|fill| if fill.gas { gas(plane) } else { outside(plane, width) });
        for (i, (v, g)) in plane.iter_mut().zip(&grey).enumerate() {
            *v = match (&self.fill, &air) {
                (Some(_), Some(air)) if *g <= 0.0 && air[i] => AIR_FILL_HU,
                (Some(fill), _) if *g <= 0.0 => fill.tissue_hu,
                _ => low + g * step,
            };
        }
        soften(plane, width, self.softened);
    }
}

fn gas(plane: &[f32]) -> Vec<bool> {
    plane.iter().map(|v| *v < AIR_HU).collect()
}

/// Air that hangs together with the border of the image.
fn outside(plane: &[f32], width: usize) -> Vec<bool> {
    let height = plane.len() / width;
    let mut seen = vec![false; plane.len()];
    let ends = (0..width).flat_map(|x| [x, (height - 1) * width + x]);
    let mut open: Vec<usize> = ends.chain((0..height).flat_map(|y| [y * width, (y + 1) * width - 1])).collect();
    while let Some(i) = open.pop() {
        if seen[i] || plane[i] >= AIR_HU {
            continue;
        }
        seen[i] = true;
        let (x, y) = (i % width, i / width);
        let beside =
            [(x > 0).then(|| i - 1), (x + 1 < width).then_some(i + 1), (y > 0).then(|| i - width), (y + 1 < height).then_some(i + width)];
        open.extend(beside.into_iter().flatten());
    }
    seen
}

/// `weight` of each of the two neighbours, along rows and then along columns; the border stays.
fn soften(plane: &mut [f32], width: usize, weight: f32) {
    if weight == 0.0 {
        return;
    }
    let height = plane.len() / width;
    for stride in [1, width] {
        let before = plane.to_vec();
        for y in 1..height.saturating_sub(1) {
            for i in y * width + 1..(y + 1) * width - 1 {
                plane[i] = before[i] + weight * (before[i - stride] + before[i + stride] - 2.0 * before[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 32;

    fn export(window: [f32; 2], fill: Option<Fill>) -> Export {
        Export { window, fill, jpeg: None, softened: 0.0 }
    }

    /// A body of 50 HU in air with a bubble of gas, fat of -100 and bone of 700 HU in it.
    fn body() -> Vec<f32> {
        let mut plane = vec![-1000.0; SIZE * SIZE];
        let mut paint = |x: std::ops::Range<usize>, hu: f32| x.for_each(|x| (4..28).for_each(|y| plane[y * SIZE + x] = hu));
        paint(4..28, 50.0);
        paint(20..24, -100.0);
        paint(24..28, 700.0);
        (10..14).for_each(|x| (10..14).for_each(|y| plane[y * SIZE + x] = -900.0));
        plane
    }

    #[test]
    fn a_window_keeps_what_lies_in_it_and_fills_what_lies_below() {
        let at = |plane: &[f32], x: usize| plane[11 * SIZE + x];
        for (gas, bubble) in [(true, AIR_FILL_HU), (false, -60.0)] {
            let mut plane = body();
            export([0.0, 255.0], Some(Fill { tissue_hu: -60.0, gas })).apply(&mut plane, SIZE);
            assert_eq!([0, 6, 11, 21, 25].map(|x| at(&plane, x)), [AIR_FILL_HU, 50.0, bubble, -60.0, 255.0]);
        }
        let mut plane = body();
        export([-175.0, 275.0], None).apply(&mut plane, SIZE);
        assert_eq!([0, 25].map(|x| at(&plane, x)), [-175.0, 275.0]);
        assert!((at(&plane, 6) - 50.0).abs() < 0.51 * 450.0 / 255.0);
    }

    #[test]
    fn the_full_range_has_steps_of_16_hu() {
        let mut plane: Vec<f32> = (0..SIZE * SIZE).map(|i| i as f32 - 500.0).collect();
        let before = plane.clone();
        export(FULL_RANGE_HU, None).apply(&mut plane, SIZE);
        assert!(plane.iter().zip(&before).all(|(a, b)| (a - b).abs() <= 8.1));
        plane.dedup();
        assert!(plane.windows(2).all(|p| (p[1] - p[0] - 16.06).abs() < 0.1), "{plane:?}");
    }

    #[test]
    fn softening_moves_nothing_and_adds_nothing() {
        let mut plane = vec![0.0; SIZE * SIZE];
        plane[10 * SIZE + 12] = 100.0;
        soften(&mut plane, SIZE, 0.2);
        assert!((plane.iter().sum::<f32>() - 100.0).abs() < 1e-3);
        assert_eq!(plane[10 * SIZE + 11], plane[10 * SIZE + 13]);
        assert_eq!(plane[9 * SIZE + 12], plane[11 * SIZE + 12]);
    }
}
