//! Vectors as wide as the processor has them ([`pulp`]), over the channels of channels-last maps.
//!
//! What runs in vectors is `inline(always)`, in loops instead of closures: a closure would be compiled for the baseline processor.

use pulp::{Arch, Scalar, Simd, WithSimd};

/// Channels in multiples of the widest vector there is (16 f32) go by in vectors, so that one network takes the same way on every processor.
pub const CHANNELS: usize = 16;

/// Runs `op` with the processor's vectors, or value by value where the channels are no whole vectors.
pub fn run<T: WithSimd>(channels: usize, op: T) -> T::Output {
    if channels.is_multiple_of(CHANNELS) { Arch::new().dispatch(op) } else { op.with_simd(Scalar) }
}

/// The vector at `at`.
#[inline(always)]
pub fn load<S: Simd>(from: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&from[at..at + S::F32_LANES]).0[0]
}

/// Writes the vector at `at`.
#[inline(always)]
pub fn store<S: Simd>(to: &mut [f32], at: usize, value: S::f32s) {
    S::as_mut_simd_f32s(&mut to[at..at + S::F32_LANES]).0[0] = value;
}
