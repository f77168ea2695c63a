//! Convolution as im2col and a matrix product, forward and backward.
//!
//! The im2col buffer is built for a few rows at a time so that it stays in the second-level cache; images and row tiles run in parallel.
//! Weights as they lie are the right-hand matrix of the product without a copy.

use std::cell::RefCell;

use pulp::Arch;
use rayon::prelude::*;

use super::super::matmul::{Order, matmul};
use super::{Epilogue, Shape, strips, summed_over_images};

/// im2col buffer of one tile: about 512 KiB of f32, half of a usual second-level cache.
const TILE_FLOATS: usize = 128 * 1024;

thread_local! {
    /// Kept from layer to layer, so that it is cleared once.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

const fn direct(shape: Shape) -> bool {
    shape.kernel == 1 && shape.stride == 1
}

/// Output rows of one tile.
fn tile_rows(shape: Shape) -> usize {
    (TILE_FLOATS / (shape.depth() * shape.out_width()).max(1)).clamp(1, shape.out_height())
}

/// `[b, h, w, inputs]` → `[b, out_h, out_w, outputs]`.
#[must_use]
pub fn forward(shape: Shape, x: &[f32], weights: &[f32], epilogue: Option<Epilogue<'_>>) -> Vec<f32> {
    let (oh, ow, n, k) = (shape.out_height(), shape.out_width(), shape.outputs, shape.depth());
    let mut out = vec![0.0; shape.batch * oh * ow * n];
    let (rows, arch) = (tile_rows(shape), Arch::new());
    let image_in = shape.height * shape.width * shape.inputs;
    out.par_chunks_mut(oh * ow * n).zip(x.par_chunks(image_in)).for_each(|(out, x)| {
        out.par_chunks_mut(rows * ow * n).enumerate().for_each(|(tile, out)| {
            let (first, count) = (tile * rows, out.len() / (ow * n));
            let mut product = |x: &[f32]| {
                if strips::takes(n) {
                    arch.dispatch(strips::Product { x, weights, out: &mut *out, outputs: n, epilogue });
                } else {
                    matmul(out, (count * ow, k, n), (x, Order::Rows), (weights, Order::Rows), false);
                    epilogue.iter().for_each(|e| e.apply(out));
                }
            };
            if direct(shape) {
                product(&x[first * ow * k..(first + count) * ow * k]);
            } else {
                COLUMNS.with_borrow_mut(|columns| {
                    im2col(shape, x, first, count, columns);
                    product(columns);
                });
            }
        });
    });
    out
}

/// Gradient by the input, for any stride: `[b, out_h, out_w, outputs]` → `[b, h, w, inputs]`.
#[must_use]
pub fn backward_input(shape: Shape, grad: &[f32], weights: &[f32]) -> Vec<f32> {
    let (oh, ow, n, k) = (shape.out_height(), shape.out_width(), shape.outputs, shape.depth());
    let image_in = shape.height * shape.width * shape.inputs;
    let rows = tile_rows(shape);
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
    let rows = tile_rows(shape);
    summed_over_images(shape.batch, k * n, |image, sum| {
        let (x, grad) = (&x[image * image_in..(image + 1) * image_in], &grad[image * oh * ow * n..(image + 1) * oh * ow * n]);
        for first in (0..oh).step_by(rows) {
            let count = rows.min(oh - first);
            let g = &grad[first * ow * n..(first + count) * ow * n];
            let mut product = |x: &[f32]| matmul(sum, (k, count * ow, n), (x, Order::Columns), (g, Order::Rows), true);
            if direct(shape) {
                product(&x[first * ow * k..(first + count) * ow * k]);
            } else {
                COLUMNS.with_borrow_mut(|columns| {
                    im2col(shape, x, first, count, columns);
                    product(columns);
                });
            }
        }
    })
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
