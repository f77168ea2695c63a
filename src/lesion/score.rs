//! Raw score → calibrated score. Pure.

/// Piecewise-linear calibration between knots `[raw, calibrated]` that rise; flat beyond the ends.
#[must_use]
pub fn calibrate(raw: f32, knots: &[[f32; 2]]) -> f32 {
    let (Some(first), Some(last)) = (knots.first(), knots.last()) else { return raw };
    if raw <= first[0] {
        return first[1];
    }
    if raw >= last[0] {
        return last[1];
    }
    for pair in knots.windows(2) {
        let [a, b] = [pair[0], pair[1]];
        if raw <= b[0] {
            return a[1] + (b[1] - a[1]) * (raw - a[0]) / (b[0] - a[0]);
        }
    }
    last[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn between_knots_it_is_a_line() {
        let knots = [[0.1, 0.0], [0.5, 0.8], [0.9, 1.0]];
        for (raw, expected) in [(0.0, 0.0), (0.1, 0.0), (0.3, 0.4), (0.5, 0.8), (0.7, 0.9), (1.0, 1.0)] {
            assert!((calibrate(raw, &knots) - expected).abs() < 1e-6);
        }
    }

    proptest! {
        #[test]
        fn it_never_falls(a in 0f32..1.0, b in 0f32..1.0) {
            let knots = [[0.0, 0.0], [0.2, 0.1], [0.4, 0.7], [1.0, 0.95]];
            prop_assert!((a <= b) == (calibrate(a, &knots) <= calibrate(b, &knots)) || calibrate(a, &knots) == calibrate(b, &knots));
        }
    }
}
