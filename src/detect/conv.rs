//! Convolution as im2col + matmul on channels-last maps, forward and backward, on plain slices.
//!
//! The im2col buffer is built for a few rows at a time so that it stays in the second-level cache; images and row tiles run in parallel.
//! Weights lie as `[kernel, kernel, inputs, outputs]`, which is the right-hand matrix of the product without a copy.

use rayon::prelude::*;

use super::matmul::{Order, matmul};

/// im2col buffer of one tile: about 512 KiB of f32, half of a usual second-level cache.
const TILE_FLOATS: usize = 128 * 1024;

/// Shape of one convolution over a batch; "same" padding (`kernel / 2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
}

impl Shape {
    /// Output rows.
    #[must_use]
    pub const fn out_height(&self) -> usize {
        self.height.div_ceil(self.stride)
    }

    /// Output columns.
    #[must_use]
    pub const fn out_width(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Rows of the weight matrix.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    const fn direct(&self) -> bool {
        self.kernel == 1 && self.stride == 1
    }

    /// Output rows of one tile.
    fn tile_rows(&self) -> usize {
        (TILE_FLOATS / (self.depth() * self.out_width()).max(1)).clamp(1, self.out_height())
    }
}

/// What follows the product, while the tile is still in the cache.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// One value an output channel.
    pub bias: &'a [f32],
    /// Clamp at zero.
    pub relu: bool,
}

/// `[b, h, w, inputs]` → `[b, out_h, out_w, outputs]`.
#[must_use]
pub fn forward(shape: Shape, x: &[f32], weights: &[f32], epilogue: Option<Epilogue<'_>>) -> Vec<f32> {
    let (oh, ow, n, k) = (shape.out_height(), shape.out_width(), shape.outputs, shape.depth());
    let mut out = vec![0.0; shape.batch * oh * ow * n];
    let rows = shape.tile_rows();
    let image_in = shape.height * shape.width * shape.inputs;
    out.par_chunks_mut(oh * ow * n).zip(x.par_chunks(image_in)).for_each(|(out, x)| {
        out.par_chunks_mut(rows * ow * n).enumerate().for_each_init(Vec::new, |columns, (tile, out)| {
            let (first, count) = (tile * rows, out.len() / (ow * n));
            let a = if shape.direct() {
                &x[first * ow * k..(first + count) * ow * k]
            } else {
                im2col(shape, x, first, count, columns);
                columns.as_slice()
            };
            matmul(out, (count * ow, k, n), (a, Order::Rows), (weights, Order::Rows), false);
            if let Some(e) = epilogue {
                for cell in out.chunks_exact_mut(n) {
                    for (value, bias) in cell.iter_mut().zip(e.bias) {
                        let sum = *value + bias;
                        *value = if e.relu { sum.max(0.0) } else { sum };
                    }
                }
            }
        });
    });
    out
}

/// Gradient by the input: `[b, out_h, out_w, outputs]` → `[b, h, w, inputs]`.
#[must_use]
pub fn backward_input(shape: Shape, grad: &[f32], weights: &[f32]) -> Vec<f32> {
    if shape.stride == 1 {
        // The transposed convolution of stride 1 is a convolution with the kernel turned by 180° and its matrix transposed.
        let taps = shape.kernel * shape.kernel;
        let (ci, co) = (shape.inputs, shape.outputs);
        let mut turned = vec![0.0; weights.len()];
        for tap in 0..taps {
            let from = &weights[(taps - 1 - tap) * ci * co..(taps - tap) * ci * co];
            let to = &mut turned[tap * ci * co..(tap + 1) * ci * co];
            for o in 0..co {
                for i in 0..ci {
                    to[o * ci + i] = from[i * co + o];
                }
            }
        }
        return forward(Shape { inputs: co, outputs: ci, ..shape }, grad, &turned, None);
    }
    let (oh, ow, n, k) = (shape.out_height(), shape.out_width(), shape.outputs, shape.depth());
    let image_in = shape.height * shape.width * shape.inputs;
    let rows = shape.tile_rows();
    let mut out = vec![0.0; shape.batch * image_in];
    out.par_chunks_mut(image_in).zip(grad.par_chunks(oh * ow * n)).for_each_init(Vec::new, |columns, (out, grad)| {
        for first in (0..oh).step_by(rows) {
            let count = rows.min(oh - first);
            columns.resize(count * ow * k, 0.0);
            matmul(
                columns,
                (count * ow, n, k),
                (&grad[first * ow * n..(first + count) * ow * n], Order::Rows),
                (weights, Order::Columns),
                false,
            );
            col2im(shape, columns, first, count, out);
        }
    });
    out
}

/// Gradient by the weights: `[kernel, kernel, inputs, outputs]`.
#[must_use]
pub fn backward_weights(shape: Shape, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (oh, ow, n, k) = (shape.out_height(), shape.out_width(), shape.outputs, shape.depth());
    let image_in = shape.height * shape.width * shape.inputs;
    let rows = shape.tile_rows();
    let lanes = rayon::current_num_threads().clamp(1, shape.batch.max(1));
    // One accumulator a thread; the number of lanes is fixed by the pool, so the sum's order is too.
    let partial: Vec<Vec<f32>> = (0..lanes)
        .into_par_iter()
        .map(|lane| {
            let (mut sum, mut columns) = (vec![0.0; k * n], Vec::new());
            for image in (lane..shape.batch).step_by(lanes) {
                let (x, grad) = (&x[image * image_in..(image + 1) * image_in], &grad[image * oh * ow * n..(image + 1) * oh * ow * n]);
                for first in (0..oh).step_by(rows) {
                    let count = rows.min(oh - first);
                    let a = if shape.direct() {
                        &x[first * ow * k..(first + count) * ow * k]
                    } else {
                        im2col(shape, x, first, count, &mut columns);
                        columns.as_slice()
                    };
                    let g = &grad[first * ow * n..(first + count) * ow * n];
                    matmul(&mut sum, (k, count * ow, n), (a, Order::Columns), (g, Order::Rows), true);
                }
            }
            sum
        })
        .collect();
    let mut lanes = partial.into_iter();
    let mut total = lanes.next().unwrap_or_default();
    for lane in lanes {
        for (t, l) in total.iter_mut().zip(&lane) {
            *t += l;
        }
    }
    total
}

/// Input offset of a tap, `None` in the padding.
fn source(at: usize, tap: usize, shape: Shape, limit: usize) -> Option<usize> {
    (at * shape.stride + tap).checked_sub(shape.kernel / 2).filter(|p| *p < limit)
}

/// Rows `first..first+count` of the output as rows of `columns`: `[count · out_w, kernel · kernel · inputs]`.
fn im2col(shape: Shape, x: &[f32], first: usize, count: usize, columns: &mut Vec<f32>) {
    let (ow, c, k) = (shape.out_width(), shape.inputs, shape.depth());
    columns.resize(count * ow * k, 0.0);
    for (row, line) in columns.chunks_exact_mut(ow * k).enumerate() {
        for ky in 0..shape.kernel {
            let y = source(first + row, ky, shape, shape.height);
            for (column, cell) in line.chunks_exact_mut(k).enumerate() {
                let to = &mut cell[ky * shape.kernel * c..(ky + 1) * shape.kernel * c];
                let Some(y) = y else {
                    to.fill(0.0);
                    continue;
                };
                let left = column * shape.stride;
                if shape.kernel == 3 && left >= 1 && left + 2 <= shape.width {
                    let from = (y * shape.width + left - 1) * c;
                    to.copy_from_slice(&x[from..from + 3 * c]);
                    continue;
                }
                for (kx, to) in to.chunks_exact_mut(c).enumerate() {
                    match source(column, kx, shape, shape.width) {
                        Some(px) => to.copy_from_slice(&x[(y * shape.width + px) * c..][..c]),
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }
}

/// Adds `columns` (as [`im2col`] lays them) back onto the image.
fn col2im(shape: Shape, columns: &[f32], first: usize, count: usize, x: &mut [f32]) {
    let (ow, c, k) = (shape.out_width(), shape.inputs, shape.depth());
    for (row, line) in columns.chunks_exact(ow * k).take(count).enumerate() {
        for ky in 0..shape.kernel {
            let Some(y) = source(first + row, ky, shape, shape.height) else { continue };
            for (column, cell) in line.chunks_exact(k).enumerate() {
                for kx in 0..shape.kernel {
                    let Some(px) = source(column, kx, shape, shape.width) else { continue };
                    let from = &cell[(ky * shape.kernel + kx) * c..][..c];
                    for (to, from) in x[(y * shape.width + px) * c..][..c].iter_mut().zip(from) {
                        *to += from;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    fn shapes() -> Vec<Shape> {
        let mut all = Vec::new();
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            for (height, width) in [(8, 6), (7, 5), (1, 1)] {
                all.push(Shape { batch: 2, height, width, inputs: 3, outputs: 4, kernel, stride });
            }
        }
        all
    }

    /// The definition, in f64.
    fn naive(s: Shape, x: &[f32], w: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        for b in 0..s.batch {
            for oy in 0..s.out_height() {
                for ox in 0..s.out_width() {
                    for o in 0..s.outputs {
                        let mut sum = 0.0f64;
                        for ky in 0..s.kernel {
                            for kx in 0..s.kernel {
                                let (Some(y), Some(px)) = (source(oy, ky, s, s.height), source(ox, kx, s, s.width)) else { continue };
                                for i in 0..s.inputs {
                                    sum += f64::from(x[((b * s.height + y) * s.width + px) * s.inputs + i])
                                        * f64::from(w[((ky * s.kernel + kx) * s.inputs + i) * s.outputs + o]);
                                }
                            }
                        }
                        out.push(sum as f32);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forward_is_the_definition() {
        for s in shapes() {
            let (x, w) = (wave(s.batch * s.height * s.width * s.inputs, 0.37), wave(s.depth() * s.outputs, 0.73));
            for (a, b) in forward(s, &x, &w, None).iter().zip(naive(s, &x, &w)) {
                assert!((a - b).abs() < 1e-5, "{s:?}");
            }
        }
    }

    /// <grad, conv(x)> is linear in x and in w: its derivative along any direction is the product with the gradient.
    #[test]
    fn gradients_are_the_adjoint_of_the_forward_pass() {
        for s in shapes() {
            let (nx, nw) = (s.batch * s.height * s.width * s.inputs, s.depth() * s.outputs);
            let (x, w, g) = (wave(nx, 0.37), wave(nw, 0.73), wave(s.batch * s.out_height() * s.out_width() * s.outputs, 0.91));
            let (dx, dw) = (wave(nx, 0.11), wave(nw, 0.13));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let by_x = dot(&backward_input(s, &g, &w), &dx) - dot(&g, &naive(s, &dx, &w));
            let by_w = dot(&backward_weights(s, &x, &g), &dw) - dot(&g, &naive(s, &x, &dw));
            assert!(by_x.abs() < 1e-3 && by_w.abs() < 1e-3, "{s:?}: {by_x} {by_w}");
        }
    }

    #[test]
    fn the_epilogue_adds_the_bias_and_clamps() {
        let s = Shape { batch: 1, height: 2, width: 2, inputs: 1, outputs: 2, kernel: 1, stride: 1 };
        let out = forward(s, &[1.0, -1.0, 2.0, -2.0], &[1.0, -1.0], Some(Epilogue { bias: &[0.5, 0.0], relu: true }));
        assert_eq!(out, [1.5, 0.0, 0.0, 1.0, 2.5, 0.0, 0.0, 2.0]);
    }
}
