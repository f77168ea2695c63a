//! Batch norm by the batch's own moments, then ReLU: forward and backward on slices of channels-last maps.

use std::sync::{Arc, Mutex, PoisonError};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::vector::{self, load, store};

/// Numerical floor of a variance.
pub const EPSILON: f32 = 1e-5;
/// Floats a thread works on at once: a vector of channels after the other goes through them, so they stay in the second-level cache.
const CHUNK_FLOATS: usize = 16 * 1024;
/// Sums side by side, so that an addition need not wait for the last.
const SIDE_BY_SIDE: usize = 4;

/// Mean and variance a channel, as batch norm keeps them for inference.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// One value a channel.
    pub mean: Vec<f32>,
    /// One value a channel (biased).
    pub variance: Vec<f32>,
}

/// What the loss's gradient by the output becomes.
#[derive(Debug)]
pub struct Gradients {
    /// By the input, one value a value.
    pub by_x: Vec<f32>,
    /// One value a channel.
    pub by_gamma: Vec<f32>,
    /// One value a channel.
    pub by_beta: Vec<f32>,
}

/// Floats of a chunk: whole cells.
fn chunk(channels: usize) -> usize {
    (CHUNK_FLOATS / channels).max(1) * channels
}

fn inverse_deviations(moments: &Moments) -> Vec<f32> {
    moments.variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect()
}

/// The moments of a map's channels.
#[must_use]
pub fn moments(x: &[f32], channels: usize) -> Moments {
    let n = (x.len() / channels) as f64;
    // Sums about the first cell's values: the variance of a channel far from zero keeps its digits.
    let origin = &x[..channels];
    let (first, second) = sums(x.par_chunks(chunk(channels)).map(|x| {
        let mut out = (vec![0.0; channels], vec![0.0; channels]);
        vector::run(channels, Deviations { x, origin, first: &mut out.0, second: &mut out.1 });
        out
    }));
    let mean = first.iter().zip(origin).map(|(s, o)| (s / n) as f32 + o).collect();
    let variance = first.iter().zip(&second).map(|(a, b)| (b / n - (a / n).powi(2)).max(0.0) as f32).collect();
    Moments { mean, variance }
}

/// `max(0, (x - mean) / deviation · gamma + beta)`.
#[must_use]
pub fn forward(x: &[f32], moments: &Moments, gamma: &[f32], beta: &[f32]) -> Vec<f32> {
    let channels = gamma.len();
    // y = x · scale + shift
    let scale: Vec<f32> = gamma.iter().zip(inverse_deviations(moments)).map(|(g, i)| g * i).collect();
    let shift: Vec<f32> = beta.iter().zip(&moments.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(chunk(channels))
        .zip(x.par_chunks(chunk(channels)))
        .for_each(|(out, x)| vector::run(channels, Forward { x, scale: &scale, shift: &shift, out }));
    out
}

/// Backward from `grad` at output `y`, which was [`forward`] of `x`; the moments are the batch's own and are differentiated, too.
#[must_use]
pub fn backward(x: &[f32], y: &[f32], grad: &[f32], moments: &Moments, gamma: &[f32]) -> Gradients {
    let (channels, mean, inverse) = (gamma.len(), &moments.mean, inverse_deviations(moments));
    let width = chunk(channels);
    let chunks = x.par_chunks(width).zip(y.par_chunks(width)).zip(grad.par_chunks(width));
    let (first, mut second) = sums(chunks.map(|((x, y), grad)| {
        let mut out = (vec![0.0; channels], vec![0.0; channels]);
        vector::run(channels, Passed { x, y, grad, mean, first: &mut out.0, second: &mut out.1 });
        out
    }));
    second.iter_mut().zip(&inverse).for_each(|(s, i)| *s *= f64::from(*i));
    let n = (x.len() / channels) as f64;
    // dx = scale · (g − offset − x · slope)
    let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, i)| g * i).collect();
    let slope: Vec<f32> = second.iter().zip(&inverse).map(|(s, i)| (s / n) as f32 * i).collect();
    let offset: Vec<f32> = (0..channels).map(|c| (first[c] / n) as f32 - mean[c] * slope[c]).collect();
    let mut by_x = vec![0.0; x.len()];
    by_x.par_chunks_mut(width).zip(x.par_chunks(width)).zip(y.par_chunks(width).zip(grad.par_chunks(width))).for_each(
        |((out, x), (y, grad))| {
            vector::run(channels, ByInput { x, y, grad, scale: &scale, offset: &offset, slope: &slope, out });
        },
    );
    Gradients { by_x, by_gamma: second.iter().map(|s| *s as f32).collect(), by_beta: first.iter().map(|s| *s as f32).collect() }
}

/// Two sums a channel: chunks in f32, their totals in f64, in a fixed order.
fn sums(chunks: impl IndexedParallelIterator<Item = (Vec<f32>, Vec<f32>)>) -> (Vec<f64>, Vec<f64>) {
    let partial: Vec<_> = chunks.collect();
    let channels = partial.first().map_or(0, |(a, _)| a.len());
    let (mut first, mut second) = (vec![0.0; channels], vec![0.0; channels]);
    for (a, b) in partial {
        for c in 0..channels {
            first[c] += f64::from(a[c]);
            second[c] += f64::from(b[c]);
        }
    }
    (first, second)
}

/// Where ReLU clamped, nothing flows back.
#[inline(always)]
fn passed<S: Simd>(s: S, y: &[f32], grad: &[f32], at: usize) -> S::f32s {
    let zero = s.splat_f32s(0.0);
    s.select_f32s(s.less_than_f32s(zero, load::<S>(y, at)), load::<S>(grad, at), zero)
}

/// The total of sums side by side.
#[inline(always)]
fn total<S: Simd>(s: S, sums: [S::f32s; SIDE_BY_SIDE]) -> S::f32s {
    s.add_f32s(s.add_f32s(sums[0], sums[1]), s.add_f32s(sums[2], sums[3]))
}

struct Deviations<'a> {
    x: &'a [f32],
    origin: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl WithSimd for Deviations<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let channels = self.origin.len();
        for channel in (0..channels).step_by(S::F32_LANES) {
            let origin = load::<S>(self.origin, channel);
            let (mut first, mut second) = ([s.splat_f32s(0.0); SIDE_BY_SIDE], [s.splat_f32s(0.0); SIDE_BY_SIDE]);
            for cells in self.x.chunks(SIDE_BY_SIDE * channels) {
                for (i, cell) in cells.chunks_exact(channels).enumerate() {
                    let d = s.sub_f32s(load::<S>(cell, channel), origin);
                    first[i] = s.add_f32s(first[i], d);
                    second[i] = s.mul_add_e_f32s(d, d, second[i]);
                }
            }
            store::<S>(self.first, channel, total(s, first));
            store::<S>(self.second, channel, total(s, second));
        }
    }
}

struct Forward<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (channels, zero) = (self.scale.len(), s.splat_f32s(0.0));
        for channel in (0..channels).step_by(S::F32_LANES) {
            let (scale, shift) = (load::<S>(self.scale, channel), load::<S>(self.shift, channel));
            for at in (channel..self.x.len()).step_by(channels) {
                store::<S>(self.out, at, s.max_f32s(s.mul_add_e_f32s(load::<S>(self.x, at), scale, shift), zero));
            }
        }
    }
}

/// Sums of the gradients that ReLU let pass, and of these times the deviation from the mean.
struct Passed<'a> {
    x: &'a [f32],
    y: &'a [f32],
    grad: &'a [f32],
    mean: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl WithSimd for Passed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let channels = self.mean.len();
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mean = load::<S>(self.mean, channel);
            let (mut first, mut second) = ([s.splat_f32s(0.0); SIDE_BY_SIDE], [s.splat_f32s(0.0); SIDE_BY_SIDE]);
            for begin in (0..self.x.len()).step_by(SIDE_BY_SIDE * channels) {
                for i in 0..SIDE_BY_SIDE.min((self.x.len() - begin) / channels) {
                    let at = begin + i * channels + channel;
                    let g = passed(s, self.y, self.grad, at);
                    first[i] = s.add_f32s(first[i], g);
                    second[i] = s.mul_add_e_f32s(g, s.sub_f32s(load::<S>(self.x, at), mean), second[i]);
                }
            }
            store::<S>(self.first, channel, total(s, first));
            store::<S>(self.second, channel, total(s, second));
        }
    }
}

struct ByInput<'a> {
    x: &'a [f32],
    y: &'a [f32],
    grad: &'a [f32],
    scale: &'a [f32],
    offset: &'a [f32],
    slope: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for ByInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let channels = self.scale.len();
        for channel in (0..channels).step_by(S::F32_LANES) {
            let (scale, offset, slope) = (load::<S>(self.scale, channel), load::<S>(self.offset, channel), load::<S>(self.slope, channel));
            for at in (channel..self.x.len()).step_by(channels) {
                let rest = s.sub_f32s(passed(s, self.y, self.grad, at), offset);
                let taken = s.mul_f32s(load::<S>(self.x, at), slope);
                store::<S>(self.out, at, s.mul_f32s(scale, s.sub_f32s(rest, taken)));
            }
        }
    }
}

/// Running averages of a layer's [`Moments`]; shared between the network and its checkpoint.
#[derive(Debug, Clone)]
pub struct Running(Arc<Mutex<Moments>>);

impl Running {
    /// Mean 0, variance 1.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        Self(Arc::new(Mutex::new(Moments { mean: vec![0.0; channels], variance: vec![1.0; channels] })))
    }

    /// Moves the average towards `batch` by `momentum`. A batch that is not finite moves nothing: the average would never be finite again.
    pub fn update(&self, batch: &Moments, momentum: f32) {
        if batch.mean.iter().chain(&batch.variance).any(|v| !v.is_finite()) {
            return;
        }
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = &mut *own;
        for (o, b) in own.mean.iter_mut().chain(&mut own.variance).zip(batch.mean.iter().chain(&batch.variance)) {
            *o += momentum * (b - *o);
        }
    }

    /// The present averages.
    #[must_use]
    pub fn get(&self) -> Moments {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the averages.
    pub fn set(&self, moments: Moments) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moments;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    /// In vectors, value by value, over several chunks and with a last chunk that is no multiple of anything.
    #[test]
    fn moments_are_the_definition() {
        for (cells, channels) in [(7, 3), (1, 16), (5003, 32), (4099, 18)] {
            let x: Vec<f32> = wave(cells * channels, 0.37).iter().enumerate().map(|(i, v)| v + (i % channels) as f32 * 100.0).collect();
            let m = moments(&x, channels);
            for c in 0..channels {
                let of: Vec<f64> = x.iter().skip(c).step_by(channels).map(|v| f64::from(*v)).collect();
                let mean = of.iter().sum::<f64>() / cells as f64;
                let variance = of.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cells as f64;
                let (by_mean, by_variance) = (f64::from(m.mean[c]) - mean, f64::from(m.variance[c]) - variance);
                assert!(by_mean.abs() < 1e-3 && by_variance.abs() < 1e-3, "{cells} x {channels}, channel {c}: {by_mean} {by_variance}");
            }
        }
    }

    /// The derivative of <grad, forward(x)> along a direction, by differences, is the product with the gradients.
    #[test]
    fn gradients_are_the_slope() {
        for (cells, channels) in [(37, 3), (41, 16), (1031, 32)] {
            let n = cells * channels;
            let (x, dx, grad) = (wave(n, 0.37), wave(n, 0.11), wave(n, 0.91));
            let gamma: Vec<f32> = wave(channels, 0.5).iter().map(|v| 1.5 + v).collect();
            // Far above zero nothing is clamped and the function is smooth; far below all is, and nothing flows back.
            let beta: Vec<f32> = (0..channels).map(|c| if c % 3 == 0 { -20.0 } else { 20.0 }).collect();
            let value = |x: &[f32], gamma: &[f32], beta: &[f32]| -> f64 {
                forward(x, &moments(x, channels), gamma, beta).iter().zip(&grad).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
            };
            let m = moments(&x, channels);
            let found = backward(&x, &forward(&x, &m, &gamma, &beta), &grad, &m, &gamma);
            let along = |v: &[f32], d: &[f32], step: f32| -> Vec<f32> { v.iter().zip(d).map(|(v, d)| v + step * d).collect() };
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let (step, by_channel) = (1e-2, wave(channels, 0.77));
            let slope = |low: f64, high: f64| (high - low) / f64::from(2.0 * step);
            let pairs = [
                (slope(value(&along(&x, &dx, -step), &gamma, &beta), value(&along(&x, &dx, step), &gamma, &beta)), dot(&found.by_x, &dx)),
                (
                    slope(value(&x, &along(&gamma, &by_channel, -step), &beta), value(&x, &along(&gamma, &by_channel, step), &beta)),
                    dot(&found.by_gamma, &by_channel),
                ),
                (
                    slope(value(&x, &gamma, &along(&beta, &by_channel, -step)), value(&x, &gamma, &along(&beta, &by_channel, step))),
                    dot(&found.by_beta, &by_channel),
                ),
            ];
            for (i, (by_differences, by_gradient)) in pairs.into_iter().enumerate() {
                let off = (by_differences - by_gradient).abs();
                assert!(off < 1e-2 * (1.0 + by_gradient.abs()), "{cells} x {channels}, {i}: {by_differences} {by_gradient}");
            }
        }
    }
}
