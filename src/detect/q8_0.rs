//! Convolution with GGUF's Q8_0: weights and maps in blocks of 32 int8 values with one f16 scale each (llama.cpp's format, candle's kernels).
//!
//! A cell of the map is quantized once, into ⌈channels / 32⌉ blocks of its own; im2col then copies blocks, and the product runs block by block. So the rows
//! of the weight matrix (`[outputs, kernel · kernel · ⌈inputs / 32⌉ · 32]`, one row an output channel) are padded with zeros tap by tap.
//! Which layers suit is a table ([`suits`]); the others stay f32.

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ8_0, QK8_0};
use rayon::prelude::*;

use super::conv::Shape;
use super::network::Conv;
use super::weights::Layer;

/// Input channels from which on a layer is worth quantizing: of a slot's three windows a block would hold 29 zeros.
const LEAST_INPUTS: usize = 8;
/// im2col buffer of one tile, in blocks of 34 bytes: about 256 KiB, half of a usual second-level cache.
const TILE_BLOCKS: usize = 8 * 1024;
/// Cells that are multiplied with four weight rows before the next four are fetched.
const CELLS_AT_ONCE: usize = 16;

/// Whether this layer is held in Q8_0. Layers that end in logits are not: they cost one part in a hundred, and boxes are decoded from what they say.
#[must_use]
pub fn suits(conv: &Conv) -> bool {
    conv.norm_relu && conv.inputs >= LEAST_INPUTS
}

/// Blocks of one cell.
const fn blocks_a_cell(channels: usize) -> usize {
    channels.div_ceil(QK8_0)
}

/// Channels of a cell, padding included.
#[must_use]
pub const fn padded(channels: usize) -> usize {
    blocks_a_cell(channels) * QK8_0
}

/// Columns of the weight matrix, padding included.
#[must_use]
pub const fn depth(kernel: usize, inputs: usize) -> usize {
    kernel * kernel * padded(inputs)
}

/// `[kernel, kernel, inputs, outputs]` → `[outputs, depth]`, padded.
#[must_use]
pub fn rows(conv: &Conv, weights: &[f32]) -> Vec<f32> {
    let padded = padded(conv.inputs);
    let mut out = vec![0.0; conv.outputs * depth(conv.kernel, conv.inputs)];
    for (o, row) in out.chunks_exact_mut(depth(conv.kernel, conv.inputs)).enumerate() {
        for (tap, row) in row.chunks_exact_mut(padded).enumerate() {
            for (i, v) in row.iter_mut().take(conv.inputs).enumerate() {
                *v = weights[(tap * conv.inputs + i) * conv.outputs + o];
            }
        }
    }
    out
}

/// The inverse of [`rows`].
#[must_use]
pub fn from_rows(conv: &Conv, rows: &[f32]) -> Vec<f32> {
    let (padded, depth) = (padded(conv.inputs), depth(conv.kernel, conv.inputs));
    let mut out = vec![0.0; conv.kernel * conv.kernel * conv.inputs * conv.outputs];
    for (tap_input, out) in out.chunks_exact_mut(conv.outputs).enumerate() {
        let (tap, i) = (tap_input / conv.inputs, tap_input % conv.inputs);
        for (o, v) in out.iter_mut().enumerate() {
            *v = rows[o * depth + tap * padded + i];
        }
    }
    out
}

/// One convolution's weights in Q8_0.
#[derive(Debug, Clone)]
pub struct Q8Layer {
    /// Rows of blocks, one an output channel.
    blocks: Vec<BlockQ8_0>,
    bias: Vec<f32>,
}

fn quantized(x: &[f32]) -> Vec<BlockQ8_0> {
    let mut blocks = vec![BlockQ8_0::zeros(); x.len() / QK8_0];
    BlockQ8_0::from_float(x, &mut blocks);
    blocks
}

impl Q8Layer {
    /// Quantizes a layer.
    #[must_use]
    pub fn new(conv: &Conv, layer: &Layer) -> Self {
        Self { blocks: quantized(&rows(conv, &layer.weights)), bias: layer.bias.clone() }
    }

    /// The weights that the blocks stand for, `[kernel, kernel, inputs, outputs]`.
    #[must_use]
    pub fn weights_f32(&self, conv: &Conv) -> Vec<f32> {
        let mut rows = vec![0.0; self.blocks.len() * QK8_0];
        BlockQ8_0::to_float(&self.blocks, &mut rows);
        from_rows(conv, &rows)
    }

    /// `[b, h, w, inputs]` → `[b, out_h, out_w, outputs]`, bias added, then clamped at zero.
    #[must_use]
    pub fn forward(&self, shape: Shape, x: &[f32]) -> Vec<f32> {
        let (oh, ow, n) = (shape.out_height(), shape.out_width(), shape.outputs);
        let cell = blocks_a_cell(shape.inputs);
        let k = shape.kernel * shape.kernel * cell;
        let map = map_blocks(x, shape.inputs);
        let image_in = shape.height * shape.width * cell;
        let rows = (TILE_BLOCKS / (k * ow).max(1)).clamp(1, oh);
        let mut out = vec![0.0; shape.batch * oh * ow * n];
        out.par_chunks_mut(oh * ow * n).zip(map.par_chunks(image_in)).for_each(|(out, map)| {
            out.par_chunks_mut(rows * ow * n).enumerate().for_each_init(Vec::new, |columns, (tile, out)| {
                let (first, count) = (tile * rows, out.len() / (ow * n));
                let columns = if shape.kernel == 1 && shape.stride == 1 {
                    &map[first * ow * k..(first + count) * ow * k]
                } else {
                    im2col(shape, map, first, count, columns);
                    columns.as_slice()
                };
                self.product(columns, k, out);
            });
        });
        out
    }

    /// `columns [cells, k blocks]` × the weights' rows → `out [cells, outputs]`.
    fn product(&self, columns: &[BlockQ8_0], k: usize, out: &mut [f32]) {
        let (n, values) = (self.bias.len(), k * QK8_0);
        let row = |o: usize| &self.blocks[o * k..(o + 1) * k];
        for (columns, out) in columns.chunks(CELLS_AT_ONCE * k).zip(out.chunks_mut(CELLS_AT_ONCE * n)) {
            for o in (0..n).step_by(4) {
                for (cell, out) in columns.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
                    if let [a, b, c, d] = &mut out[o..n.min(o + 4)] {
                        (*a, *b, *c, *d) = BlockQ8_0::vec_dot_4(values, row(o), row(o + 1), row(o + 2), row(o + 3), cell);
                    } else {
                        for (o, v) in out.iter_mut().enumerate().skip(o) {
                            *v = BlockQ8_0::vec_dot(values, row(o), cell);
                        }
                    }
                }
            }
            for cell in out.chunks_exact_mut(n) {
                for (v, b) in cell.iter_mut().zip(&self.bias) {
                    *v = (*v + b).max(0.0);
                }
            }
        }
    }
}

/// Cells of `channels` values → cells of blocks.
fn map_blocks(x: &[f32], channels: usize) -> Vec<BlockQ8_0> {
    const CELLS: usize = 1024;
    let cell = blocks_a_cell(channels);
    let mut blocks = vec![BlockQ8_0::zeros(); x.len() / channels * cell];
    blocks.par_chunks_mut(CELLS * cell).zip(x.par_chunks(CELLS * channels)).for_each(|(blocks, x)| {
        if channels.is_multiple_of(QK8_0) {
            BlockQ8_0::from_float(x, blocks);
            return;
        }
        let mut padded = vec![0.0; cell * QK8_0];
        for (blocks, x) in blocks.chunks_exact_mut(cell).zip(x.chunks_exact(channels)) {
            padded[..channels].copy_from_slice(x);
            BlockQ8_0::from_float(&padded, blocks);
        }
    });
    blocks
}

/// Rows `first..first + count` of the output as rows of `columns`: `[count · out_w, kernel · kernel · blocks a cell]`.
fn im2col(shape: Shape, map: &[BlockQ8_0], first: usize, count: usize, columns: &mut Vec<BlockQ8_0>) {
    let (ow, cell) = (shape.out_width(), blocks_a_cell(shape.inputs));
    columns.clear();
    let zeros = vec![BlockQ8_0::zeros(); cell];
    let source = |at: usize, tap: usize, limit: usize| (at * shape.stride + tap).checked_sub(shape.kernel / 2).filter(|p| *p < limit);
    for row in first..first + count {
        for column in 0..ow {
            for ky in 0..shape.kernel {
                let y = source(row, ky, shape.height);
                for kx in 0..shape.kernel {
                    match (y, source(column, kx, shape.width)) {
                        (Some(y), Some(px)) => columns.extend_from_slice(&map[(y * shape.width + px) * cell..][..cell]),
                        _ => columns.extend_from_slice(&zeros),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::conv;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    /// On maps and weights that Q8_0 holds exactly (small whole numbers, the largest of each block 127) nothing is lost but the order of the sum.
    #[test]
    fn what_is_held_exactly_is_computed_exactly() {
        for (kernel, stride, inputs, outputs) in [(1, 1, 32, 6), (3, 1, 8, 4), (3, 2, 40, 7), (3, 1, 64, 8)] {
            let shape = Shape { batch: 2, height: 7, width: 5, inputs, outputs, kernel, stride };
            let conv = Conv { name: "c".into(), kernel, stride, inputs, outputs, norm_relu: true };
            // Every eighth channel is 127, so that the scale of each block is 1.
            let whole = |n: usize, f: f32, each: usize| -> Vec<f32> {
                wave(n, f).iter().enumerate().map(|(i, v)| if (i / each).is_multiple_of(8) { 127.0 } else { (v * 100.0).round() }).collect()
            };
            let x = whole(2 * 7 * 5 * inputs, 0.37, 1);
            let layer = Layer { weights: whole(kernel * kernel * inputs * outputs, 0.73, outputs), bias: wave(outputs, 0.5) };
            let ours = Q8Layer::new(&conv, &layer).forward(shape, &x);
            let exact = conv::Layer::new(&conv, &layer).forward(shape, &x);
            let most = exact.iter().copied().fold(0.0, f32::max);
            for (a, b) in ours.iter().zip(&exact) {
                assert!((a - b).abs() <= most * 1e-6, "{kernel} {stride} {inputs} {outputs}: {a} {b}");
            }
        }
    }

    #[test]
    fn weights_come_back_within_half_a_step() {
        let conv = Conv { name: "c".into(), kernel: 3, stride: 1, inputs: 40, outputs: 6, norm_relu: true };
        let layer = Layer { weights: wave(9 * 40 * 6, 0.9), bias: vec![0.0; 6] };
        assert_eq!(from_rows(&conv, &rows(&conv, &layer.weights)), layer.weights);
        for (a, b) in layer.weights.iter().zip(Q8Layer::new(&conv, &layer).weights_f32(&conv)) {
            assert!((a - b).abs() < 0.5 / 127.0 + 1e-3, "{a} {b}");
        }
    }
}
