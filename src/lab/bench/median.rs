//! Medians and percentiles of few, noisy numbers. Pure.

/// The median; the mean of the middle two where there is an even number. NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Median of the quotients of two columns that were measured turn about.
#[must_use]
pub fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}

/// The `share`th (0 to 1) of `values` by nearest rank; `None` of none.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_lists() {
        assert_eq!((median(&[3.0, 1.0, 200.0]), median(&[4.0, 1.0, 2.0, 3.0])), (3.0, 2.5));
        assert!(median(&[]).is_nan());
        assert_eq!(ratio(&[2.0, 9.0, 4.0], &[1.0, 1.0, 1.0]), 4.0);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.99), percentile(&hundred, 1.0)), (Some(99.0), Some(100.0)));
        assert_eq!((percentile(&[7.0], 0.01), percentile(&[], 0.5)), (Some(7.0), None));
    }
}
