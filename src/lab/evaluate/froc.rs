//! FROC by the DeepLesion protocol, as MULAN and the detectors after it count. Pure.
//!
//! A prediction that overlaps no truth box of its image is a false positive; a truth box is found at the score of the best prediction that overlaps it;
//! a second hit on a found box counts neither way (in the strict variant it is a false positive). Boxes are `x2 - x1 + 1` wide. Sensitivity at a number
//! of false positives an image is read off the curve by linear interpolation; past its end the last value holds.

/// The false positives an image at which sensitivity is reported.
pub const AT: [f64; 7] = [0.5, 1.0, 2.0, 4.0, 5.0, 8.0, 16.0];
/// The false positives a volume at which sensitivity is reported.
pub const AT_VOLUME: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// When a prediction finds a truth box, and what becomes of a second one on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Intersection over union > 0.5.
    Iou,
    /// Intersection over the predicted box's area ≥ 0.3.
    Iobb,
    /// As [`Rule::Iou`], but a prediction that is the best of no truth box is a false positive: duplicates count.
    Strict,
}

/// Intersection of two boxes and the areas of both, pixels.
fn areas(p: [f64; 4], t: [f64; 4]) -> (f64, f64, f64) {
    let side = |low: f64, high: f64| (high - low + 1.0).max(0.0);
    let area = |b: [f64; 4]| side(b[0], b[2]) * side(b[1], b[3]);
    let common = side(p[0].max(t[0]), p[2].min(t[2])) * side(p[1].max(t[1]), p[3].min(t[3]));
    (common, area(p), area(t))
}

/// Intersection over union, +1 pixel convention.
#[must_use]
pub fn iou(p: [f64; 4], t: [f64; 4]) -> f64 {
    let (common, of_p, of_t) = areas(p, t);
    common / (of_p + of_t - common)
}

impl Rule {
    /// In the order of reports.
    pub const ALL: [Self; 3] = [Self::Iou, Self::Iobb, Self::Strict];

    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iou => "IoU>0.5",
            Self::Iobb => "IoBB>=0.3",
            Self::Strict => "IoU>0.5 strict",
        }
    }

    /// Whether prediction `p` overlaps truth box `t`.
    #[must_use]
    pub fn hit(self, p: [f64; 4], t: [f64; 4]) -> bool {
        match self {
            Self::Iou | Self::Strict => iou(p, t) > 0.5,
            Self::Iobb => {
                let (common, of_p, _) = areas(p, t);
                common / of_p >= 0.3
            }
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

/// What matching says of one image, as indices into its predictions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Best hit of each truth box; of equal scores the first.
    pub hits: Vec<Option<usize>>,
    /// False positives.
    pub false_positives: Vec<usize>,
}

/// Matches the predictions of one image with its truth.
#[must_use]
pub fn match_image(image: &Image, rule: Rule) -> Matched {
    let all = &image.predictions;
    let best = |truth: &[f64; 4]| {
        let of_truth = (0..all.len()).filter(|i| rule.hit(all[*i].0, *truth));
        of_truth.max_by(|a, b| all[*a].1.total_cmp(&all[*b].1).then(b.cmp(a)))
    };
    let hits: Vec<Option<usize>> = image.truths.iter().map(best).collect();
    let is_false = |i: &usize| match rule {
        Rule::Strict => !hits.contains(&Some(*i)),
        Rule::Iou | Rule::Iobb => !image.truths.iter().any(|t| rule.hit(all[*i].0, *t)),
    };
    let false_positives = (0..all.len()).filter(is_false).collect();
    Matched { hits, false_positives }
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
        let matched = match_image(image, rule);
        all.images += 1;
        all.hits.extend(matched.hits.iter().map(|hit| hit.map(|i| image.predictions[i].1)));
        all.false_positives.extend(matched.false_positives.iter().map(|i| image.predictions[*i].1));
    }
    all
}

/// One score: so many false positives and so many hits have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Score.
    pub score: f64,
    /// False positives.
    pub false_positives: f64,
    /// Truths found.
    pub hits: f64,
}

/// The curve of `steps` (highest score first) over `images` and `truths`: false positives an image and sensitivity at every threshold, rising; no
/// further than one point past `until` false positives an image.
pub fn curve(steps: impl IntoIterator<Item = Step>, images: f64, truths: f64, until: f64) -> Vec<[f64; 2]> {
    let mut curve: Vec<[f64; 2]> = Vec::new();
    let mut add = |x: f64, y: f64| match curve.last_mut() {
        // Of equal false positives the highest sensitivity.
        Some(last) if last[0] == x => last[1] = y,
        _ => curve.push([x, y]),
    };
    let (mut x, mut y, mut before) = (0.0, 0.0, None);
    for step in steps {
        if before.is_some_and(|score| score != step.score) {
            add(x / images, y / truths);
            if x / images > until {
                break;
            }
        }
        x += step.false_positives;
        y += step.hits;
        before = Some(step.score);
    }
    if before.is_some() {
        add(x / images, y / truths);
    }
    if curve.first().is_none_or(|p| p[0] > 0.0) {
        curve.insert(0, [0.0, 0.0]);
    }
    curve
}

/// Sensitivity at `x` false positives an image.
#[must_use]
pub fn read_off(curve: &[[f64; 2]], x: f64) -> f64 {
    let after = curve.partition_point(|p| p[0] < x);
    match (after.checked_sub(1).map(|i| curve[i]), curve.get(after)) {
        (_, Some(b)) if b[0] == x => b[1],
        (Some(a), Some(b)) => a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]),
        (Some(a), None) => a[1],
        (None, Some(b)) => b[1],
        (None, None) => 0.0,
    }
}

impl Matches {
    /// The whole curve.
    #[must_use]
    pub fn curve(&self) -> Vec<[f64; 2]> {
        let hits = self.hits.iter().flatten().map(|score| Step { score: *score, false_positives: 0.0, hits: 1.0 });
        let misses = self.false_positives.iter().map(|score| Step { score: *score, false_positives: 1.0, hits: 0.0 });
        let mut steps: Vec<Step> = hits.chain(misses).collect();
        steps.sort_by(|a, b| b.score.total_cmp(&a.score));
        curve(steps, self.images.max(1) as f64, self.hits.len().max(1) as f64, f64::INFINITY)
    }

    /// Sensitivity at each of [`AT`]; not a number where there is no truth.
    #[must_use]
    pub fn sensitivities(&self) -> [f64; 7] {
        if self.hits.is_empty() {
            return [f64::NAN; 7];
        }
        let curve = self.curve();
        AT.map(|x| read_off(&curve, x))
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
    fn a_second_hit_counts_neither_way_and_is_false_where_strict() {
        let one = image(&[(A, 0.9), (A, 0.8), (FAR, 0.7)], &[A]);
        let m = matches([&one], Rule::Iou);
        assert_eq!((m.hits, m.false_positives), (vec![Some(0.9)], vec![0.7]));
        let m = matches([&one], Rule::Strict);
        assert_eq!((m.hits, m.false_positives), (vec![Some(0.9)], vec![0.8, 0.7]));
    }

    #[test]
    fn strict_takes_the_first_of_equal_scores_and_a_box_on_two_truths_finds_both() {
        let m = match_image(&image(&[(A, 0.8), (A, 0.8)], &[A]), Rule::Strict);
        assert_eq!((m.hits, m.false_positives), (vec![Some(0)], vec![1]));
        let near = [0.0, 0.0, 9.0, 8.0];
        let m = match_image(&image(&[(A, 0.9), (near, 0.8)], &[A, near]), Rule::Strict);
        assert_eq!((m.hits, m.false_positives), (vec![Some(0), Some(0)], vec![1]));
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
        // 10 × 10 boxes that share 5 columns: 50 of 150; boxes of one pixel; boxes that touch.
        assert!((iou(A, [5.0, 0.0, 14.0, 9.0]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(iou([3.0; 4], [3.0; 4]), 1.0);
        assert_eq!(iou(A, [10.0, 0.0, 19.0, 9.0]), 0.0);
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

    #[test]
    fn a_curve_cut_short_reads_the_same() {
        let steps: Vec<Step> = (0..200)
            .map(|i| Step { score: 1.0 - f64::from(i / 2) / 100.0, false_positives: f64::from(i % 3), hits: f64::from(i % 2) })
            .collect();
        let (whole, cut) = (curve(steps.clone(), 5.0, 100.0, f64::INFINITY), curve(steps, 5.0, 100.0, 16.0));
        assert!(cut.len() < whole.len());
        assert_eq!(AT.map(|x| read_off(&whole, x)), AT.map(|x| read_off(&cut, x)));
    }
}
