//! What masks of pixels are made of: their connected parts, and how far the rest is from them. Row-major, `width` columns.

/// Further away than any pixel.
const FAR: f32 = 1e6;

/// The pixels beside pixel `i` of `len`, by sides.
pub fn neighbours(i: usize, width: usize, len: usize) -> impl Iterator<Item = usize> {
    let x = i % width;
    let all = [(i >= width, i.wrapping_sub(width)), (i + width < len, i + width), (x > 0, i.wrapping_sub(1)), (x + 1 < width, i + 1)];
    all.into_iter().filter(|(on, _)| *on).map(|(_, j)| j)
}

/// Pixels of each part of a mask that is connected by sides.
#[must_use]
pub fn parts(mask: &[bool], width: usize) -> Vec<Vec<usize>> {
    let mut left = mask.to_vec();
    let mut all = Vec::new();
    for start in 0..mask.len() {
        if !left[start] {
            continue;
        }
        left[start] = false;
        let mut part = vec![start];
        let mut next = 0;
        while let Some(i) = part.get(next).copied() {
            next += 1;
            for j in neighbours(i, width, mask.len()) {
                if left[j] {
                    left[j] = false;
                    part.push(j);
                }
            }
        }
        all.push(part);
    }
    all
}

/// Distance of each pixel to the nearest of a mask, pixels (chamfer 1, √2; Borgefors 1986).
#[must_use]
pub fn distance(mask: &[bool], width: usize) -> Vec<f32> {
    const DIAGONAL: f32 = std::f32::consts::SQRT_2;
    let mut d: Vec<f32> = mask.iter().map(|m| if *m { 0.0 } else { FAR }).collect();
    for i in 0..d.len() {
        let (x, y) = (i % width, i / width);
        let mut least = d[i];
        if x > 0 {
            least = least.min(d[i - 1] + 1.0);
        }
        if y > 0 {
            least = least.min(d[i - width] + 1.0);
            if x > 0 {
                least = least.min(d[i - width - 1] + DIAGONAL);
            }
            if x + 1 < width {
                least = least.min(d[i - width + 1] + DIAGONAL);
            }
        }
        d[i] = least;
    }
    for i in (0..d.len()).rev() {
        let x = i % width;
        let mut least = d[i];
        if x + 1 < width {
            least = least.min(d[i + 1] + 1.0);
        }
        if i + width < mask.len() {
            least = least.min(d[i + width] + 1.0);
            if x > 0 {
                least = least.min(d[i + width - 1] + DIAGONAL);
            }
            if x + 1 < width {
                least = least.min(d[i + width + 1] + DIAGONAL);
            }
        }
        d[i] = least;
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hang_together_by_sides() {
        let drawing = ["##...#", "##...#", "..#..#", "#....#", "#....#"].concat();
        let mask: Vec<bool> = drawing.chars().map(|c| c == '#').collect();
        let mut found = parts(&mask, 6);
        found.iter_mut().for_each(|p| p.sort_unstable());
        assert_eq!(found, [vec![0, 1, 6, 7], vec![5, 11, 17, 23, 29], vec![14], vec![18, 24]]);
    }

    #[test]
    fn distances_are_those_of_a_ruler_within_the_chamfers_error() {
        let mut mask = vec![false; 96 * 60];
        mask[40 * 96 + 30] = true;
        for (i, d) in distance(&mask, 96).into_iter().enumerate() {
            let true_one = ((i % 96) as f32 - 30.0).hypot((i / 96) as f32 - 40.0);
            assert!(d >= true_one - 1e-3 && d <= true_one * 1.09, "{d} instead of {true_one}");
        }
    }
}
