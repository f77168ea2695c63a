//! The network's operators composed of candle's own operations, on channels-last maps `[b, h, w, c]` of any device: what a GPU runs, forward and
//! backward. On the CPU `ops` is faster.

use candle_core::{Result, Tensor};

use super::norm::{self, Moments};
use super::walk::Joins;

/// What has no weights.
pub const JOINS: Joins = Joins { add: |a, b| a + b, upsample };

/// Convolution of `x [b, h, w, inputs]` with `weights [kernel, kernel, inputs, outputs]`, "same" padding, as a product with [`columns`].
///
/// # Errors
/// candle's, where shapes disagree.
pub fn conv(x: &Tensor, weights: &Tensor, stride: usize) -> Result<Tensor> {
    let (batch, height, width, _) = x.dims4()?;
    let (kernel, _, inputs, outputs) = weights.dims4()?;
    let y = columns(x, kernel, stride)?.matmul(&weights.reshape((kernel * kernel * inputs, outputs))?)?;
    y.reshape((batch, height.div_ceil(stride), width.div_ceil(stride), outputs))
}

/// The same by candle's own `conv2d`, which is slow both ways: what ours is held against.
///
/// # Errors
/// candle's, where shapes disagree.
pub fn conv2d(x: &Tensor, weights: &Tensor, stride: usize) -> Result<Tensor> {
    let kernel = weights.dim(0)?;
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let weights = weights.permute((3, 2, 0, 1))?.contiguous()?;
    x.conv2d(&weights, kernel / 2, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()
}

/// The taps of each output cell side by side: `[b, h, w, c]` → `[cells, kernel · kernel · c]`, zeros outside of the map.
///
/// # Errors
/// candle's.
pub fn columns(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
    let cells = batch * out_height * out_width;
    if (kernel, stride) == (1, 1) {
        return x.contiguous()?.reshape((cells, channels));
    }
    // Padded to whole steps, so that a step's pixels are a dimension of their own: what is `stride` apart is then one apart.
    let (rows, steps) = (out_height + (kernel - 1) / stride, out_width + (kernel - 1) / stride);
    let before = kernel / 2;
    let x = x
        .pad_with_zeros(1, before, rows * stride - height - before)?
        .pad_with_zeros(2, before, steps * stride - width - before)?
        .reshape((batch, rows, stride, steps, stride, channels))?;
    let tap = |tap: usize| {
        let (ky, kx) = (tap / kernel, tap % kernel);
        x.narrow(1, ky / stride, out_height)?
            .narrow(2, ky % stride, 1)?
            .narrow(3, kx / stride, out_width)?
            .narrow(4, kx % stride, 1)?
            .contiguous()?
            .reshape((cells, channels))
    };
    Tensor::cat(&(0..kernel * kernel).map(tap).collect::<Result<Vec<_>>>()?, 1)
}

/// Batch norm by the batch's own moments, then ReLU. Returns the moments for the running average.
///
/// # Errors
/// candle's.
pub fn norm_relu(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<(Tensor, Moments)> {
    let flat = x.flatten(0, 2)?;
    let mean = flat.mean_keepdim(0)?;
    let centred = flat.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    let y = centred.broadcast_div(&(&variance + f64::from(norm::EPSILON))?.sqrt()?)?.broadcast_mul(gamma)?.broadcast_add(beta)?.relu()?;
    let moments = Moments { mean: mean.flatten_all()?.detach().to_vec1()?, variance: variance.flatten_all()?.detach().to_vec1()? };
    Ok((y.reshape(x.shape())?, moments))
}

/// Every cell twice in both directions.
///
/// # Errors
/// candle's.
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h, 1, w, c))?
        .broadcast_as((b, h, 2, w, c))?
        .contiguous()?
        .reshape((b, 2 * h, w, 1, c))?
        .broadcast_as((b, 2 * h, w, 2, c))?
        .contiguous()?
        .reshape((b, 2 * h, 2 * w, c))
}
