//! Where the body is on one image. Pure.

use super::HuImage;
use super::frame::Plane;

/// Inclusive pixel box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelBox {
    /// Left.
    pub x1: usize,
    /// Top.
    pub y1: usize,
    /// Right, inclusive.
    pub x2: usize,
    /// Bottom, inclusive.
    pub y2: usize,
}

impl PixelBox {
    /// Smallest box that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { x1: self.x1.min(other.x1), y1: self.y1.min(other.y1), x2: self.x2.max(other.x2), y2: self.y2.max(other.y2) }
    }

    /// Whether a point lies in it.
    #[must_use]
    pub fn holds(self, point: [f64; 2]) -> bool {
        self.is_near(point, [0.0; 2])
    }

    /// Whether a point lies in it or within `reach` (x, y) of it.
    #[must_use]
    pub fn is_near(self, [x, y]: [f64; 2], [dx, dy]: [f64; 2]) -> bool {
        (self.x1 as f64 - dx..=self.x2 as f64 + dx).contains(&x) && (self.y1 as f64 - dy..=self.y2 as f64 + dy).contains(&y)
    }
}

/// Tissue against air.
const TISSUE_HU: i16 = -300;
/// The mask is made on every fourth pixel: arms of the table and noise fall through, and it costs nothing.
const STRIDE: usize = 4;
/// Parts of at least this share of the largest count as body (arms, two legs); the table top is thinner.
const PART_SHARE: f64 = 0.15;

/// Box round the body, or round the whole image where there is none.
#[must_use]
pub fn body_box(image: &HuImage) -> PixelBox {
    boxed((image.rows, image.cols), |i| image.hu[i] > TISSUE_HU)
}

/// The same of a slot's plane, in its own pixels.
#[must_use]
pub fn body_of_plane(plane: &Plane) -> PixelBox {
    boxed((plane.height, plane.width), |i| plane.hu[i] > f32::from(TISSUE_HU))
}

fn boxed((image_rows, image_cols): (usize, usize), is_solid: impl Fn(usize) -> bool) -> PixelBox {
    let (rows, cols) = (image_rows.div_ceil(STRIDE), image_cols.div_ceil(STRIDE));
    let solid: Vec<bool> = (0..rows * cols).map(|i| is_solid((i / cols * STRIDE) * image_cols + i % cols * STRIDE)).collect();
    // One erosion: the table's shells are a pixel thick on this grid, the body is not.
    let core: Vec<bool> = (0..rows * cols)
        .map(|i| {
            let (y, x) = (i / cols, i % cols);
            y > 0 && x > 0 && y + 1 < rows && x + 1 < cols && [i, i - 1, i + 1, i - cols, i + cols].iter().all(|j| solid[*j])
        })
        .collect();
    let mut seen = vec![false; rows * cols];
    let mut parts: Vec<(usize, PixelBox)> = Vec::new();
    for start in 0..rows * cols {
        if core[start] && !seen[start] {
            parts.push(flood(start, &core, &mut seen, (rows, cols)));
        }
    }
    let largest = parts.iter().map(|(n, _)| *n).max().unwrap_or(0) as f64;
    let whole = PixelBox { x1: 0, y1: 0, x2: image_cols.saturating_sub(1), y2: image_rows.saturating_sub(1) };
    let body = parts.iter().filter(|(n, _)| *n as f64 >= largest * PART_SHARE).map(|(_, b)| *b).reduce(PixelBox::union);
    body.map_or(whole, |b| PixelBox {
        x1: b.x1.saturating_sub(2) * STRIDE,
        y1: b.y1.saturating_sub(2) * STRIDE,
        x2: ((b.x2 + 2) * STRIDE).min(whole.x2),
        y2: ((b.y2 + 2) * STRIDE).min(whole.y2),
    })
}

fn flood(start: usize, core: &[bool], seen: &mut [bool], (rows, cols): (usize, usize)) -> (usize, PixelBox) {
    let mut stack = vec![start];
    seen[start] = true;
    let (mut count, mut hull) = (0, PixelBox { x1: start % cols, y1: start / cols, x2: start % cols, y2: start / cols });
    while let Some(i) = stack.pop() {
        let (y, x) = (i / cols, i % cols);
        count += 1;
        hull = hull.union(PixelBox { x1: x, y1: y, x2: x, y2: y });
        let near = [(y > 0, i.wrapping_sub(cols)), (y + 1 < rows, i + cols), (x > 0, i.wrapping_sub(1)), (x + 1 < cols, i + 1)];
        for (inside, j) in near {
            if inside && core[j] && !seen[j] {
                seen[j] = true;
                stack.push(j);
            }
        }
    }
    (count, hull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(inside: impl Fn(usize, usize) -> bool) -> HuImage {
        HuImage { rows: 256, cols: 256, hu: (0..256 * 256).map(|i| if inside(i % 256, i / 256) { 40 } else { -1000 }).collect() }
    }

    #[test]
    fn the_table_is_not_the_body() {
        let found = body_box(&image(|x, y| ((80..180).contains(&x) && (60..150).contains(&y)) || (y == 200 && (20..240).contains(&x))));
        assert!(found.x1 >= 72 && found.x2 <= 188 && found.y1 >= 52 && found.y2 <= 158, "{found:?}");
        assert!(found.x1 <= 80 && found.x2 >= 179 && found.y1 <= 60 && found.y2 >= 149, "{found:?}");
    }

    #[test]
    fn arms_count_and_air_gives_the_whole_image() {
        let found = body_box(&image(|x, y| (60..150).contains(&y) && ((80..160).contains(&x) || (10..40).contains(&x))));
        assert!(found.x1 <= 10 && found.x2 >= 159, "{found:?}");
        assert_eq!(body_box(&image(|_, _| false)), PixelBox { x1: 0, y1: 0, x2: 255, y2: 255 });
    }
}
