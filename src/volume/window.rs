//! HU → the network's three channels.

use super::SlotInput;
use super::frame::Plane;

/// Lower and upper end of each window, HU: soft tissue, everything, lung (DeepLesion detectors after 3DCE and MULAN use these ranges).
pub const WINDOWS_HU: [[f32; 2]; 3] = [[-174.0, 274.0], [-1493.0, 484.0], [-534.0, 1425.0]];

/// The three windows of one HU value, each 0..1.
#[must_use]
pub fn windows(hu: f32) -> [f32; 3] {
    WINDOWS_HU.map(|[low, high]| ((hu - low) / (high - low)).clamp(0.0, 1.0))
}

/// One plane as the network sees it.
#[must_use]
pub fn slot_input(plane: &Plane) -> SlotInput {
    let mut data = vec![0.0; plane.hu.len() * 3];
    for (cell, hu) in data.chunks_exact_mut(3).zip(&plane.hu) {
        cell.copy_from_slice(&windows(*hu));
    }
    SlotInput { height: plane.height, width: plane.width, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_ends_are_zero_and_one() {
        assert_eq!(windows(-2000.0), [0.0, 0.0, 0.0]);
        assert_eq!(windows(3000.0), [1.0, 1.0, 1.0]);
        let middle = windows(50.0);
        assert!((middle[0] - 0.5).abs() < 1e-6);
        assert!((middle[1] - 1543.0 / 1977.0).abs() < 1e-6);
        assert!((middle[2] - 584.0 / 1959.0).abs() < 1e-6);
    }

    #[test]
    fn channels_are_last() {
        let plane = Plane { height: 1, width: 2, hu: vec![-174.0, 274.0] };
        let slot = slot_input(&plane);
        assert_eq!((slot.data[0], slot.data[3]), (0.0, 1.0));
    }
}
