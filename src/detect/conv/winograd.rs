//! 3×3 convolution of stride 1 by Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray 2016, arXiv:1509.09308), forward and by the weights.
//!
//! Sixteen outputs take 36 products a channel pair instead of 144. A map is cut into tiles of 4 × 4 outputs; each tile's 6 × 6 inputs become 36 points
//! (`Bᵀ d B`), each point of all tiles is multiplied with that point of the weights (`G g Gᵀ`), and the 36 sums become 4 × 4 outputs (`Aᵀ m A`). Rows of tiles
//! go by in blocks that stay in the second-level cache. Vectors run over channels ([`vector`](super::super::vector)).
//!
//! Rounding: the points' weights reach 5 and 8, so the error is about ten times that of summing directly; tests hold it.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::matmul::{Order, matmul};
use super::super::vector::{CHANNELS, load, store};
use super::{Epilogue, Shape, strips, summed_over_images};

/// Points of a tile: 6 × 6.
const POINTS: usize = 36;
/// Rows and columns of outputs a tile.
const TILE: usize = 4;
/// Fewer tiles than this are not worth their transforms.
const LEAST_TILES: usize = 8;
/// Both buffers of one block: half of a small second-level cache.
const BLOCK_FLOATS: usize = 64 * 1024;
/// Floats behind each point's plane: planes of a power of two would all begin in the same cache set (measured: 1.3 times the time of a layer).
const PAD: usize = 16;

/// Whether [`forward`] and [`by_weights`] do this convolution.
#[must_use]
pub fn suits(shape: Shape) -> bool {
    takes(shape.kernel, shape.stride, shape.inputs, shape.outputs)
        && shape.height.div_ceil(TILE) * shape.width.div_ceil(TILE) >= LEAST_TILES
}

/// Whether [`points`] can be made for such a layer; what size of map it then [`suits`] is another question.
#[must_use]
pub fn takes(kernel: usize, stride: usize, inputs: usize, outputs: usize) -> bool {
    kernel == 3 && stride == 1 && inputs.is_multiple_of(CHANNELS) && outputs.is_multiple_of(CHANNELS)
}

/// `G g Gᵀ`: weights `[3, 3, inputs, outputs]` → `[36, inputs, outputs]`. Their number is a multiple of nine vectors ([`takes`]).
#[must_use]
pub fn points(weights: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; weights.len() / 9 * POINTS];
    Arch::new().dispatch(WeightsToPoints { weights, out: &mut out });
    out
}

/// `[b, h, w, inputs]` → `[b, h, w, outputs]`; `points` are [`points`] of the weights.
#[must_use]
pub fn forward(shape: Shape, x: &[f32], points: &[f32], epilogue: Option<Epilogue<'_>>) -> Vec<f32> {
    let arch = Arch::new();
    let (row_in, row_out) = (shape.width * shape.inputs, shape.width * shape.outputs);
    let rows = block_rows(shape);
    let mut out = vec![0.0; shape.batch * shape.height * row_out];
    out.par_chunks_mut(shape.height * row_out).zip(x.par_chunks(shape.height * row_in)).for_each(|(out, x)| {
        out.par_chunks_mut(rows * row_out).enumerate().for_each(|(i, out)| {
            let tiles = Tiles { shape, first: i * rows, rows: out.len() / row_out };
            BUFFERS.with_borrow_mut(|buffers| arch.dispatch(Forward { tiles, x, points, epilogue, out, buffers }));
        });
    });
    out
}

/// Gradient by the weights, `[3, 3, inputs, outputs]`: the adjoint of [`forward`], point by point.
#[must_use]
pub fn by_weights(shape: Shape, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = Arch::new();
    let (image_in, image_out) = (shape.height * shape.width * shape.inputs, shape.height * shape.width * shape.outputs);
    let rows = block_rows(shape);
    let total = summed_over_images(shape.batch, POINTS * shape.inputs * shape.outputs, |image, sum| {
        let (x, grad) = (&x[image * image_in..][..image_in], &grad[image * image_out..][..image_out]);
        for first in (0..shape.height).step_by(rows) {
            let tiles = Tiles { shape, first, rows: rows.min(shape.height - first) };
            BUFFERS.with_borrow_mut(|buffers| arch.dispatch(ByWeights { tiles, x, grad, sum: &mut *sum, buffers }));
        }
    });
    let mut out = vec![0.0; 9 * shape.inputs * shape.outputs];
    arch.dispatch(PointsToWeights { points: &total, out: &mut out });
    out
}

/// Output rows of one block.
fn block_rows(shape: Shape) -> usize {
    let row_of_tiles = POINTS * shape.width.div_ceil(TILE) * (shape.inputs + shape.outputs);
    (BLOCK_FLOATS / row_of_tiles.max(1)).max(1) * TILE
}

/// Some rows of tiles of one image.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    shape: Shape,
    /// First output row.
    first: usize,
    /// Output rows.
    rows: usize,
}

impl Tiles {
    fn across(&self) -> usize {
        self.shape.width.div_ceil(TILE)
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(TILE) * self.across()
    }

    /// The first output row, within the rows, and column of a tile.
    fn corner(&self, tile: usize) -> (usize, usize) {
        (tile / self.across() * TILE, tile % self.across() * TILE)
    }

    /// Floats from one point's plane to the next.
    fn plane(&self, channels: usize) -> usize {
        self.count() * channels + PAD
    }
}

/// One plane a point: `[36, tiles, channels]`, planes [`PAD`] apart.
#[derive(Debug, Default)]
struct Buffers {
    inputs: Vec<f32>,
    outputs: Vec<f32>,
}

thread_local! {
    /// Kept from layer to layer, so that it is cleared once: under a megabyte a thread.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

#[inline(always)]
fn times<S: Simd>(s: S, factor: f32, value: S::f32s) -> S::f32s {
    s.mul_f32s(s.splat_f32s(factor), value)
}

/// `factor · value + sum`.
#[inline(always)]
fn fused<S: Simd>(s: S, factor: f32, value: S::f32s, sum: S::f32s) -> S::f32s {
    s.mul_add_e_f32s(s.splat_f32s(factor), value, sum)
}

/// `G g`.
#[inline(always)]
fn g<S: Simd>(s: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 6] {
    let (even, odd) = (times(s, -1.0 / 6.0, s.add_f32s(a, c)), times(s, 1.0 / 6.0, b));
    let (far_even, far_odd) = (fused(s, 1.0 / 24.0, a, times(s, 1.0 / 6.0, c)), times(s, 1.0 / 12.0, b));
    [times(s, 0.25, a), s.sub_f32s(even, odd), s.add_f32s(even, odd), s.add_f32s(far_even, far_odd), s.sub_f32s(far_even, far_odd), c]
}

/// `Gᵀ p`.
#[inline(always)]
fn g_transposed<S: Simd>(s: S, [p0, p1, p2, p3, p4, p5]: [S::f32s; 6]) -> [S::f32s; 3] {
    let (near, far) = (s.add_f32s(p1, p2), s.add_f32s(p3, p4));
    let (near_odd, far_odd) = (s.sub_f32s(p2, p1), s.sub_f32s(p3, p4));
    [
        fused(s, 0.25, p0, fused(s, -1.0 / 6.0, near, times(s, 1.0 / 24.0, far))),
        fused(s, 1.0 / 6.0, near_odd, times(s, 1.0 / 12.0, far_odd)),
        fused(s, -1.0 / 6.0, near, fused(s, 1.0 / 6.0, far, p5)),
    ]
}

/// `Bᵀ d`.
#[inline(always)]
fn b_transposed<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
    let (even, odd) = (fused(s, -4.0, d2, d4), fused(s, -4.0, d1, d3));
    let (far_even, far_odd) = (s.sub_f32s(d4, d2), s.sub_f32s(d3, d1));
    [
        fused(s, 4.0, d0, fused(s, -5.0, d2, d4)),
        s.add_f32s(even, odd),
        s.sub_f32s(even, odd),
        fused(s, 2.0, far_odd, far_even),
        fused(s, -2.0, far_odd, far_even),
        fused(s, 4.0, d1, fused(s, -5.0, d3, d5)),
    ]
}

/// `Aᵀ m`.
#[inline(always)]
fn a_transposed<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
    let (near, near_odd) = (s.add_f32s(m1, m2), s.sub_f32s(m1, m2));
    let (far, far_odd) = (s.add_f32s(m3, m4), s.sub_f32s(m3, m4));
    [
        s.add_f32s(s.add_f32s(m0, near), far),
        fused(s, 2.0, far_odd, near_odd),
        fused(s, 4.0, far, near),
        s.add_f32s(fused(s, 8.0, far_odd, near_odd), m5),
    ]
}

/// `A y`.
#[inline(always)]
fn a<S: Simd>(s: S, [y0, y1, y2, y3]: [S::f32s; 4]) -> [S::f32s; 6] {
    let (even, odd) = (s.add_f32s(y0, y2), s.add_f32s(y1, y3));
    let far_even = fused(s, 4.0, y2, y0);
    let half_odd = fused(s, 4.0, y3, y1);
    [y0, s.add_f32s(even, odd), s.sub_f32s(even, odd), fused(s, 2.0, half_odd, far_even), fused(s, -2.0, half_odd, far_even), y3]
}

/// The values of all columns at `row`.
#[inline(always)]
fn across<S: Simd, const N: usize, const M: usize>(s: S, columns: &[[S::f32s; N]; M], row: usize) -> [S::f32s; M] {
    let mut line = [s.splat_f32s(0.0); M];
    for column in 0..M {
        line[column] = columns[column][row];
    }
    line
}

struct WeightsToPoints<'a> {
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for WeightsToPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let pairs = self.weights.len() / 9;
        for at in (0..pairs).step_by(S::F32_LANES) {
            let mut columns = [[s.splat_f32s(0.0); 6]; 3];
            for x in 0..3 {
                let mut taps = [s.splat_f32s(0.0); 3];
                for y in 0..3 {
                    taps[y] = load::<S>(self.weights, (y * 3 + x) * pairs + at);
                }
                columns[x] = g(s, taps);
            }
            for y in 0..6 {
                let line = g(s, [columns[0][y], columns[1][y], columns[2][y]]);
                for x in 0..6 {
                    store::<S>(self.out, (y * 6 + x) * pairs + at, line[x]);
                }
            }
        }
    }
}

struct PointsToWeights<'a> {
    points: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for PointsToWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let pairs = self.out.len() / 9;
        for at in (0..pairs).step_by(S::F32_LANES) {
            let mut columns = [[s.splat_f32s(0.0); 3]; 6];
            for x in 0..6 {
                let mut points = [s.splat_f32s(0.0); 6];
                for y in 0..6 {
                    points[y] = load::<S>(self.points, (y * 6 + x) * pairs + at);
                }
                columns[x] = g_transposed(s, points);
            }
            for y in 0..3 {
                let line = g_transposed(s, across(s, &columns, y));
                for x in 0..3 {
                    store::<S>(self.out, (y * 3 + x) * pairs + at, line[x]);
                }
            }
        }
    }
}

/// `Bᵀ d B` of every tile; beyond the map's edge there are zeros.
#[inline(always)]
fn inputs_to_points<S: Simd>(s: S, tiles: Tiles, x: &[f32], out: &mut Vec<f32>) {
    let Shape { height, width, inputs, .. } = tiles.shape;
    let plane = tiles.plane(inputs);
    out.resize(POINTS * plane, 0.0);
    for tile in 0..tiles.count() {
        let (row, column) = tiles.corner(tile);
        // One before the first output: the convolution's own padding.
        let (top, left) = (tiles.first + row, column);
        for channel in (0..inputs).step_by(S::F32_LANES) {
            let mut columns = [[s.splat_f32s(0.0); 6]; 6];
            for j in 0..6 {
                let mut cells = [s.splat_f32s(0.0); 6];
                for i in 0..6 {
                    let (y, x_px) = (top + i, left + j);
                    if y >= 1 && y <= height && x_px >= 1 && x_px <= width {
                        cells[i] = load::<S>(x, ((y - 1) * width + x_px - 1) * inputs + channel);
                    }
                }
                columns[j] = b_transposed(s, cells);
            }
            for i in 0..6 {
                let line = b_transposed(s, across(s, &columns, i));
                for j in 0..6 {
                    store::<S>(out, (i * 6 + j) * plane + tile * inputs + channel, line[j]);
                }
            }
        }
    }
}

struct Forward<'a> {
    tiles: Tiles,
    x: &'a [f32],
    points: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
    out: &'a mut [f32],
    buffers: &'a mut Buffers,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { tiles, x, points, epilogue, out, buffers } = self;
        let Shape { inputs, outputs, width, .. } = tiles.shape;
        inputs_to_points(s, tiles, x, &mut buffers.inputs);
        let plane = tiles.plane(outputs);
        buffers.outputs.resize(POINTS * plane, 0.0);
        let sums = buffers.outputs.chunks_exact_mut(plane);
        for ((x, sums), weights) in buffers.inputs.chunks_exact(tiles.plane(inputs)).zip(sums).zip(points.chunks_exact(inputs * outputs)) {
            strips::product(s, &x[..tiles.count() * inputs], weights, &mut sums[..tiles.count() * outputs], outputs, None);
        }
        let zero = s.splat_f32s(0.0);
        for tile in 0..tiles.count() {
            let (row, column) = tiles.corner(tile);
            for channel in (0..outputs).step_by(S::F32_LANES) {
                let mut columns = [[zero; 4]; 6];
                for j in 0..6 {
                    let mut sums = [zero; 6];
                    for i in 0..6 {
                        sums[i] = load::<S>(&buffers.outputs, (i * 6 + j) * plane + tile * outputs + channel);
                    }
                    columns[j] = a_transposed(s, sums);
                }
                for i in 0..TILE.min(tiles.rows - row) {
                    let line = a_transposed(s, across(s, &columns, i));
                    for j in 0..TILE.min(width - column) {
                        let value = strips::finished(s, epilogue, line[j], channel);
                        store::<S>(out, ((row + i) * width + column + j) * outputs + channel, value);
                    }
                }
            }
        }
    }
}

struct ByWeights<'a> {
    tiles: Tiles,
    x: &'a [f32],
    grad: &'a [f32],
    /// `[36, inputs, outputs]`, added to.
    sum: &'a mut [f32],
    buffers: &'a mut Buffers,
}

impl WithSimd for ByWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { tiles, x, grad, sum, buffers } = self;
        let Shape { inputs, outputs, width, .. } = tiles.shape;
        inputs_to_points(s, tiles, x, &mut buffers.inputs);
        let plane = tiles.plane(outputs);
        buffers.outputs.resize(POINTS * plane, 0.0);
        for tile in 0..tiles.count() {
            let (row, column) = tiles.corner(tile);
            for channel in (0..outputs).step_by(S::F32_LANES) {
                let mut columns = [[s.splat_f32s(0.0); 6]; 4];
                for j in 0..TILE.min(width - column) {
                    let mut cells = [s.splat_f32s(0.0); 4];
                    for i in 0..TILE.min(tiles.rows - row) {
                        cells[i] = load::<S>(grad, ((tiles.first + row + i) * width + column + j) * outputs + channel);
                    }
                    columns[j] = a(s, cells);
                }
                for i in 0..6 {
                    let line = a(s, across(s, &columns, i));
                    for j in 0..6 {
                        store::<S>(&mut buffers.outputs, (i * 6 + j) * plane + tile * outputs + channel, line[j]);
                    }
                }
            }
        }
        let grads = buffers.outputs.chunks_exact(plane);
        for ((x, grad), sum) in buffers.inputs.chunks_exact(tiles.plane(inputs)).zip(grads).zip(sum.chunks_exact_mut(inputs * outputs)) {
            matmul(sum, (inputs, tiles.count(), outputs), (x, Order::Columns), (grad, Order::Rows), true);
        }
    }
}
