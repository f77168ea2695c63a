//! Convolution on channels-last maps, forward and backward, on plain slices: as [`winograd`] where a layer suits, else as [`im2col`] and a matrix product.
//!
//! Weights lie as `[kernel, kernel, inputs, outputs]`, "same" padding (`kernel / 2`).

mod im2col;
mod strips;
mod winograd;

use rayon::prelude::*;

use super::{network, weights};

/// Shape of one convolution over a batch.
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
}

/// What follows the sums, while they are still in the cache.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// One value an output channel.
    pub bias: &'a [f32],
    /// Clamp at zero.
    pub relu: bool,
}

impl Epilogue<'_> {
    /// On whole cells, value by value.
    fn apply(&self, out: &mut [f32]) {
        for cell in out.chunks_exact_mut(self.bias.len()) {
            for (value, bias) in cell.iter_mut().zip(self.bias) {
                let sum = *value + bias;
                *value = if self.relu { sum.max(0.0) } else { sum };
            }
        }
    }
}

/// One convolution of a finished network, its weights made ready once.
#[derive(Debug)]
pub struct Layer {
    weights: Vec<f32>,
    /// Winograd's points of the weights, where there are any.
    points: Option<Vec<f32>>,
    bias: Vec<f32>,
    relu: bool,
}

impl Layer {
    /// Makes a layer ready.
    #[must_use]
    pub fn new(conv: &network::Conv, layer: &weights::Layer) -> Self {
        let points = winograd::takes(conv.kernel, conv.stride, conv.inputs, conv.outputs).then(|| winograd::points(&layer.weights));
        Self { weights: layer.weights.clone(), points, bias: layer.bias.clone(), relu: conv.norm_relu }
    }

    /// `[b, h, w, inputs]` → `[b, out_h, out_w, outputs]`, bias added and, where the network says so, clamped at zero.
    #[must_use]
    pub fn forward(&self, shape: Shape, x: &[f32]) -> Vec<f32> {
        let epilogue = Some(Epilogue { bias: &self.bias, relu: self.relu });
        match &self.points {
            Some(points) if winograd::suits(shape) => winograd::forward(shape, x, points, epilogue),
            _ => im2col::forward(shape, x, &self.weights, epilogue),
        }
    }
}

/// `[b, h, w, inputs]` → `[b, out_h, out_w, outputs]`.
#[must_use]
pub fn forward(shape: Shape, x: &[f32], weights: &[f32]) -> Vec<f32> {
    if winograd::suits(shape) {
        return winograd::forward(shape, x, &winograd::points(weights), None);
    }
    im2col::forward(shape, x, weights, None)
}

/// The sum of what `add` adds for every image to `len` values. One accumulator a thread; the number of lanes is fixed by the pool, so the sum's order is too.
fn summed_over_images(batch: usize, len: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let lanes = rayon::current_num_threads().clamp(1, batch.max(1));
    let partial: Vec<Vec<f32>> = (0..lanes)
        .into_par_iter()
        .map(|lane| {
            let mut sum = vec![0.0; len];
            (lane..batch).step_by(lanes).for_each(|image| add(image, &mut sum));
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

/// Gradient by the input: `[b, out_h, out_w, outputs]` → `[b, h, w, inputs]`.
#[must_use]
pub fn backward_input(shape: Shape, grad: &[f32], weights: &[f32]) -> Vec<f32> {
    if shape.stride != 1 {
        return im2col::backward_input(shape, grad, weights);
    }
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
    forward(Shape { inputs: co, outputs: ci, ..shape }, grad, &turned)
}

/// Gradient by the weights: `[kernel, kernel, inputs, outputs]`.
#[must_use]
pub fn backward_weights(shape: Shape, x: &[f32], grad: &[f32]) -> Vec<f32> {
    if winograd::suits(shape) { winograd::by_weights(shape, x, grad) } else { im2col::backward_weights(shape, x, grad) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    /// Every way through: im2col of each kernel and stride, Winograd with whole and cut tiles, one and several blocks, every width of strip.
    fn shapes() -> Vec<Shape> {
        let mut all = Vec::new();
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            for (height, width) in [(8, 6), (7, 5), (1, 1)] {
                all.push(Shape { batch: 2, height, width, inputs: 3, outputs: 4, kernel, stride });
            }
        }
        for (height, width, inputs, outputs) in [(8, 16, 16, 32), (13, 11, 32, 16), (30, 9, 48, 64), (70, 34, 32, 48)] {
            all.push(Shape { batch: 3, height, width, inputs, outputs, kernel: 3, stride: 1 });
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
                                let (y, px) = (oy * s.stride + ky, ox * s.stride + kx);
                                let (Some(y), Some(px)) = (y.checked_sub(s.kernel / 2), px.checked_sub(s.kernel / 2)) else { continue };
                                if y >= s.height || px >= s.width {
                                    continue;
                                }
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
            let expected = naive(s, &x, &w);
            // Winograd's rounding grows with the sum of products, not with the result.
            let most = if winograd::suits(s) { 1e-6 * s.depth() as f32 } else { 1e-5 };
            let worst = forward(s, &x, &w).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < most, "{s:?}: {worst} of {most}");
            assert_eq!(expected.len(), s.batch * s.out_height() * s.out_width() * s.outputs);
        }
    }

    #[test]
    fn winograd_is_taken_where_it_pays_and_nowhere_else() {
        let s = Shape { batch: 1, height: 8, width: 16, inputs: 32, outputs: 48, kernel: 3, stride: 1 };
        assert!(winograd::suits(s));
        for other in [
            Shape { kernel: 1, ..s },
            Shape { stride: 2, ..s },
            Shape { inputs: 24, ..s },
            Shape { outputs: 18, ..s },
            Shape { height: 4, ..s }, // seven tiles and fewer
        ] {
            assert!(!winograd::suits(other), "{other:?}");
        }
    }

    /// A finished layer gives what its weights give, whether the map is large enough for Winograd or not.
    #[test]
    fn a_layer_adds_its_bias_and_clamps() {
        let conv = network::Conv { name: "c".into(), kernel: 3, stride: 1, inputs: 16, outputs: 16, norm_relu: true };
        let layer = weights::Layer { weights: wave(9 * 16 * 16, 0.73), bias: wave(16, 0.5) };
        for (height, width) in [(3, 3), (12, 17)] {
            let shape = Shape { batch: 1, height, width, inputs: 16, outputs: 16, kernel: 3, stride: 1 };
            let x = wave(height * width * 16, 0.37);
            let sums = naive(shape, &x, &layer.weights);
            for relu in [true, false] {
                let ready = Layer::new(&network::Conv { norm_relu: relu, ..conv.clone() }, &layer);
                for (i, (y, sum)) in ready.forward(shape, &x).iter().zip(&sums).enumerate() {
                    let expected = sum + layer.bias[i % 16];
                    assert!((y - if relu { expected.max(0.0) } else { expected }).abs() < 2e-4, "{height} x {width}, value {i}");
                }
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
            let size = 1e-5 * (s.depth() * s.outputs) as f64 + 1e-3;
            assert!(by_x.abs() < size && by_w.abs() < size, "{s:?}: {by_x} {by_w}");
        }
    }

    #[test]
    fn the_epilogue_adds_the_bias_and_clamps() {
        let s = Shape { batch: 1, height: 2, width: 2, inputs: 1, outputs: 2, kernel: 1, stride: 1 };
        let out = im2col::forward(s, &[1.0, -1.0, 2.0, -2.0], &[1.0, -1.0], Some(Epilogue { bias: &[0.5, 0.0], relu: true }));
        assert_eq!(out, [1.5, 0.0, 0.0, 1.0, 2.5, 0.0, 0.0, 2.0]);
    }
}
