//! Loose lines of one image → pairs that cross like the axes of a lesion. Pure.

use super::rules::{LEAST_CROSSING_DEG, Points, crossing_deg, long_first};

/// Pairs of lines that cross at 74° or more, long axis first, with the indices of both lines; and the indices of lines that belong to no pair. A line that
/// crosses several goes with the one it crosses most squarely.
#[must_use]
pub fn pairs(lines: &[[[f64; 2]; 2]]) -> (Vec<(Points, [usize; 2])>, Vec<usize>) {
    let mut crossings = Vec::new();
    for i in 0..lines.len() {
        for j in i + 1..lines.len() {
            if let Some(angle) = crossing_deg(lines[i], lines[j]).filter(|a| *a >= LEAST_CROSSING_DEG) {
                crossings.push((angle, i, j));
            }
        }
    }
    crossings.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut taken = vec![false; lines.len()];
    let mut found = Vec::new();
    for (_, i, j) in crossings {
        if !taken[i] && !taken[j] {
            (taken[i], taken[j]) = (true, true);
            found.push((long_first([lines[i][0], lines[i][1], lines[j][0], lines[j][1]], [1.0, 1.0]), [i, j]));
        }
    }
    found.sort_by_key(|(_, indices)| *indices);
    (found, (0..lines.len()).filter(|i| !taken[*i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossing_lines_are_paired_and_the_others_named() {
        let lines = [
            [[0.0, 0.0], [10.0, 0.0]],
            [[100.0, 100.0], [120.0, 100.0]],
            [[5.0, -3.0], [5.0, 3.0]],
            [[110.0, 95.0], [112.0, 105.0]],
            [[300.0, 300.0], [310.0, 300.0]],
        ];
        let (found, alone) = pairs(&lines);
        assert_eq!(found.iter().map(|p| p.1).collect::<Vec<_>>(), [[0, 2], [1, 3]]);
        assert_eq!(found[0].0, [[0.0, 0.0], [10.0, 0.0], [5.0, -3.0], [5.0, 3.0]]);
        assert_eq!(alone, [4]);
    }

    #[test]
    fn the_squarest_crossing_wins() {
        let lines = [[[0.0, 0.0], [20.0, 0.0]], [[8.0, -5.0], [10.0, 5.0]], [[12.0, -5.0], [12.0, 5.0]]];
        let (found, alone) = pairs(&lines);
        assert_eq!((found.len(), found[0].1, alone), (1, [0, 2], vec![1]));
    }
}
