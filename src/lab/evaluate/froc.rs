//! FROC by the DeepLesion protocol. Pure.
//!
//! A prediction that overlaps no truth box of its image is a false positive; a truth box is found at the score of the best prediction that overlaps it;
//! a second hit on a found box counts neither way. Boxes are `x2 - x1 + 1` wide. Sensitivity at a number of false positives an image is read off the
//! curve by linear interpolation; past its end the last value holds.

/// The false positives an image at which sensitivity is reported.
pub const AT: [f64; 7] = [0.5, 1.0, 2.0, 4.0, 5.0, 8.0, 16.0];

/// When a prediction overlaps a truth box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Intersection over union > 0.5.
    Iou,
    /// Intersection over the predicted box's area ≥ 0.3.
    Iobb,
}

impl Rule {
    fn hit(self, p: [f64; 4], t: [f64; 4]) -> bool {
        let side = |low: f64, high: f64| (high - low + 1.0).max(0.0);
        let area = |b: [f64; 4]| side(b[0], b[2]) * side(b[1], b[3]);
        let common = side(p[0].max(t[0]), p[2].min(t[2])) * side(p[1].max(t[1]), p[3].min(t[3]));
        match self {
            Self::Iou => common / (area(p) + area(t) - common) > 0.5,
            Self::Iobb => common / area(p) >= 0.3,
        }
    }
}

/// One image: predictions with scores, truth boxes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// Boxes and scores.
    pub predictions: Vec<([f64; 4], f64)>,
    /// Boxes.
    pub truths: Vec<[f64; 4]>,
}

/// Scores of hits (one a truth box, `None` where never found) and of false positives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matches {
    /// Best hit of each truth box.
    pub hits: Vec<Option<f64>>,
    /// Scores of false positives.
    pub false_positives: Vec<f64>,
    /// Images.
    pub images: usize,
}

/// Matches predictions with truth over `images`.
#[must_use]
pub fn matches<'a>(images: impl IntoIterator<Item = &'a Image>, rule: Rule) -> Matches {
    let mut all = Matches::default();
    for image in images {
        all.images += 1;
        for truth in &image.truths {
            let best = image.predictions.iter().filter(|(p, _)| rule.hit(*p, *truth)).map(|(_, s)| *s).max_by(f64::total_cmp);
            all.hits.push(best);
        }
        let misses = image.predictions.iter().filter(|(p, _)| !image.truths.iter().any(|t| rule.hit(*p, *t)));
        all.false_positives.extend(misses.map(|(_, s)| *s));
    }
    all
}

impl Matches {
    /// The curve: false positives an image and sensitivity at every threshold, rising.
    #[must_use]
    pub fn curve(&self) -> Vec<[f64; 2]> {
        let mut thresholds: Vec<f64> = self.hits.iter().flatten().chain(&self.false_positives).copied().collect();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let sorted = |mut v: Vec<f64>| {
            v.sort_by(|a, b| b.total_cmp(a));
            v
        };
        let hits = sorted(self.hits.iter().flatten().copied().collect());
        let misses = sorted(self.false_positives.clone());
        let mut curve: Vec<[f64; 2]> = Vec::new();
        for t in thresholds {
            let x = misses.partition_point(|s| *s >= t) as f64 / self.images.max(1) as f64;
            let y = hits.partition_point(|s| *s >= t) as f64 / self.hits.len().max(1) as f64;
            match curve.last_mut() {
                // Of equal false positives the highest sensitivity.
                Some(last) if last[0] == x => last[1] = y,
                _ => curve.push([x, y]),
            }
        }
        if curve.first().is_none_or(|p| p[0] > 0.0) {
            curve.insert(0, [0.0, 0.0]);
        }
        curve
    }

    /// Sensitivity at each of [`AT`]; not a number where there is no truth.
    #[must_use]
    pub fn sensitivities(&self) -> [f64; 7] {
        if self.hits.is_empty() {
            return [f64::NAN; 7];
        }
        let curve = self.curve();
        AT.map(|x| {
            let after = curve.partition_point(|p| p[0] < x);
            match (after.checked_sub(1).map(|i| curve[i]), curve.get(after)) {
                (_, Some(b)) if b[0] == x => b[1],
                (Some(a), Some(b)) => a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]),
                (Some(a), None) => a[1],
                (None, Some(b)) => b[1],
                (None, None) => 0.0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(predictions: &[([f64; 4], f64)], truths: &[[f64; 4]]) -> Image {
        Image { predictions: predictions.to_vec(), truths: truths.to_vec() }
    }

    const A: [f64; 4] = [0.0, 0.0, 9.0, 9.0];
    const FAR: [f64; 4] = [50.0, 50.0, 59.0, 59.0];

    #[test]
    fn a_second_hit_counts_neither_way() {
        let m = matches(&[image(&[(A, 0.9), (A, 0.8), (FAR, 0.7)], &[A])], Rule::Iou);
        assert_eq!((m.hits, m.false_positives), (vec![Some(0.9)], vec![0.7]));
    }

    #[test]
    fn the_pixel_convention_and_the_strict_half() {
        // 10 × 10 against 5 × 10 inside it: 50 of 100 is not more than a half, with the +1 convention.
        let half = [0.0, 0.0, 4.0, 9.0];
        assert_eq!(matches(&[image(&[(half, 0.5)], &[A])], Rule::Iou).hits, [None]);
        assert_eq!(matches(&[image(&[([0.0, 0.0, 5.0, 9.0], 0.5)], &[A])], Rule::Iou).hits, [Some(0.5)]);
        // A large prediction over a small truth: 100 of 400 is 0.25.
        assert_eq!(matches(&[image(&[([0.0, 0.0, 19.0, 19.0], 0.5)], &[A])], Rule::Iobb).hits, [None]);
        assert_eq!(matches(&[image(&[(half, 0.5)], &[A])], Rule::Iobb).hits, [Some(0.5)]);
    }

    #[test]
    fn sensitivities_are_interpolated_and_hold_past_the_end() {
        let images = [image(&[(A, 0.9), (FAR, 0.8)], &[A]), image(&[(FAR, 0.7), (A, 0.6)], &[A])];
        let m = matches(&images, Rule::Iou);
        // Thresholds: .9 → (0, .5); .8 → (.5, .5); .7 → (1, .5); .6 → (1, 1).
        assert_eq!(m.curve(), [[0.0, 0.5], [0.5, 0.5], [1.0, 1.0]]);
        assert_eq!(m.sensitivities()[..3], [0.5, 1.0, 1.0]);
        assert_eq!(matches(&[image(&[], &[A])], Rule::Iou).sensitivities(), [0.0; 7]);
    }
}
