//! The network's operators as candle functions with gradients of their own, on channels-last maps `[b, h, w, c]`.
//!
//! On the CPU they run [`conv`]'s kernels; on another device the same function is composed of candle's own operations.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::conv;

/// Numerical floor of a variance.
pub const NORM_EPSILON: f32 = 1e-5;
/// Cells a thread works on at once in the memory-bound operators.
const CHUNK_CELLS: usize = 4096;

/// Convolution of `x [b, h, w, inputs]` with `weights [kernel, kernel, inputs, outputs]`.
///
/// # Errors
/// candle's, where shapes disagree.
pub fn conv(x: &Tensor, weights: &Tensor, stride: usize) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op2(&weights.contiguous()?, ConvOp { stride });
    }
    conv_of_candle(x, weights, stride)
}

/// [`conv`] composed of candle's own operations, on every device: what ours is held against, and what a GPU runs.
///
/// # Errors
/// candle's, where shapes disagree.
pub fn conv_of_candle(x: &Tensor, weights: &Tensor, stride: usize) -> Result<Tensor> {
    let kernel = weights.dim(0)?;
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let weights = weights.permute((3, 2, 0, 1))?.contiguous()?;
    x.conv2d(&weights, kernel / 2, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()
}

/// Mean and variance a channel, as batch norm keeps them for inference.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// One value a channel.
    pub mean: Vec<f32>,
    /// One value a channel (biased).
    pub variance: Vec<f32>,
}

/// The moments of a map's channels.
///
/// # Errors
/// candle's.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    let channels = x.dim(candle_core::D::Minus1)?;
    with_slice(&x.to_device(&candle_core::Device::Cpu)?.contiguous()?, |x| Ok(moments(x, channels)))
}

/// Batch norm by the batch's own moments, then ReLU. Returns the moments for the running average.
///
/// # Errors
/// candle's.
pub fn norm_relu(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<(Tensor, Moments)> {
    if x.device().is_cpu() {
        let x = x.contiguous()?;
        let moments = with_slice(&x, |x| Ok(moments(x, gamma.elem_count())))?;
        let op = NormReluOp { moments: Arc::new(moments.clone()) };
        return Ok((x.apply_op3(gamma, beta, op)?, moments));
    }
    let flat = x.flatten(0, 2)?;
    let mean = flat.mean_keepdim(0)?;
    let centred = flat.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    let y = centred.broadcast_div(&(&variance + f64::from(NORM_EPSILON))?.sqrt()?)?.broadcast_mul(gamma)?.broadcast_add(beta)?.relu()?;
    let moments = Moments { mean: mean.flatten_all()?.detach().to_vec1()?, variance: variance.flatten_all()?.detach().to_vec1()? };
    Ok((y.reshape(x.shape())?, moments))
}

/// Every cell twice in both directions.
///
/// # Errors
/// candle's.
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(UpsampleOp);
    }
    upsample_of_candle(x)
}

/// [`upsample`] composed of candle's own operations, on every device.
///
/// # Errors
/// candle's.
pub fn upsample_of_candle(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h, 1, w, c))?
        .broadcast_as((b, h, 2, w, c))?
        .contiguous()?
        .reshape((b, 2 * h, w, 1, c))?
        .broadcast_as((b, 2 * h, w, 2, c))?
        .contiguous()?
        .reshape((b, 2 * h, 2 * w, c))
}

/// The values of a contiguous f32 tensor on the CPU.
///
/// # Errors
/// candle's, or `f`'s.
pub fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => f(slice(cpu, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

fn dims4(layout: &Layout) -> Result<(usize, usize, usize, usize)> {
    layout.shape().dims4()
}

struct ConvOp {
    stride: usize,
}

impl ConvOp {
    fn shape(&self, (batch, height, width, inputs): (usize, usize, usize, usize), weights: &[usize]) -> Result<conv::Shape> {
        match *weights {
            [kernel, k2, wi, outputs] if kernel == k2 && wi == inputs => {
                Ok(conv::Shape { batch, height, width, inputs, outputs, kernel, stride: self.stride })
            }
            _ => bail!("weights {weights:?} do not fit {inputs} input channels"),
        }
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv-nhwc"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = self.shape(dims4(l1)?, l2.dims())?;
        let out = conv::forward(shape, slice(s1, l1)?, slice(s2, l2)?);
        Ok((CpuStorage::F32(out), (shape.batch, shape.out_height(), shape.out_width(), shape.outputs).into()))
    }

    fn bwd(&self, x: &Tensor, weights: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let shape = self.shape(x.dims4()?, weights.dims())?;
        let grad = grad.contiguous()?;
        with_slice(&grad, |g| {
            let by_weights = with_slice(x, |x| Ok(conv::backward_weights(shape, x, g)))?;
            let by_weights = Tensor::from_vec(by_weights, weights.shape(), x.device())?;
            let by_x = if x.track_op() {
                let by_x = with_slice(weights, |w| Ok(conv::backward_input(shape, g, w)))?;
                Some(Tensor::from_vec(by_x, x.shape(), x.device())?)
            } else {
                None
            };
            Ok((by_x, Some(by_weights)))
        })
    }
}

/// Two sums a channel over all cells: `f(cell, first, second)` adds one cell's values. Chunks are summed in f32 (so that the loop vectorizes),
/// their totals in f64, in a fixed order.
fn channel_sums(cells: usize, channels: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) -> (Vec<f64>, Vec<f64>) {
    let partial: Vec<(Vec<f32>, Vec<f32>)> = (0..cells.div_ceil(CHUNK_CELLS))
        .into_par_iter()
        .map(|chunk| {
            let (mut first, mut second) = (vec![0.0; channels], vec![0.0; channels]);
            for cell in chunk * CHUNK_CELLS..((chunk + 1) * CHUNK_CELLS).min(cells) {
                f(cell, &mut first, &mut second);
            }
            (first, second)
        })
        .collect();
    let (mut first, mut second) = (vec![0.0; channels], vec![0.0; channels]);
    for (a, b) in partial {
        for c in 0..channels {
            first[c] += f64::from(a[c]);
            second[c] += f64::from(b[c]);
        }
    }
    (first, second)
}

fn moments(x: &[f32], channels: usize) -> Moments {
    let n = (x.len() / channels) as f64;
    // Sums about the first cell's values: the variance of a channel far from zero keeps its digits.
    let origin = &x[..channels];
    let (first, second) = channel_sums(x.len() / channels, channels, |cell, first, second| {
        let values = &x[cell * channels..(cell + 1) * channels];
        for (((a, b), v), o) in first.iter_mut().zip(second.iter_mut()).zip(values).zip(origin) {
            let d = v - o;
            *a += d;
            *b += d * d;
        }
    });
    let mean = first.iter().zip(origin).map(|(s, o)| (s / n) as f32 + o).collect();
    let variance = first.iter().zip(&second).map(|(a, b)| (b / n - (a / n).powi(2)).max(0.0) as f32).collect();
    Moments { mean, variance }
}

struct NormReluOp {
    moments: Arc<Moments>,
}

impl CustomOp3 for NormReluOp {
    fn name(&self) -> &'static str {
        "norm-relu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gamma, beta) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let channels = gamma.len();
        // y = x · scale + shift
        let scale: Vec<f32> = gamma.iter().zip(&self.moments.variance).map(|(g, v)| g / (v + NORM_EPSILON).sqrt()).collect();
        let shift: Vec<f32> = beta.iter().zip(&self.moments.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK_CELLS * channels).zip(x.par_chunks(CHUNK_CELLS * channels)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&scale).zip(&shift) {
                    *y = (x * scale + shift).max(0.0);
                }
            }
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _beta: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let channels = gamma.elem_count();
        let cells = x.elem_count() / channels;
        let grad = grad.contiguous()?;
        let inverse: Vec<f32> = self.moments.variance.iter().map(|v| 1.0 / (v + NORM_EPSILON).sqrt()).collect();
        let mean = &self.moments.mean;
        let device = x.device();
        with_slice(x, |x_values| {
            with_slice(y, |y| {
                with_slice(&grad, |g| {
                    with_slice(gamma, |gamma_values| {
                        // Where ReLU clamped, nothing flows back.
                        let (first, second) = channel_sums(cells, channels, |cell, first, second| {
                            let at = cell * channels..(cell + 1) * channels;
                            let (x, y, g) = (&x_values[at.clone()], &y[at.clone()], &g[at]);
                            // Slices of one visible length: no bounds checks, so the loop vectorizes.
                            let (x, y, g) = (&x[..channels], &y[..channels], &g[..channels]);
                            let (first, second) = (&mut first[..channels], &mut second[..channels]);
                            let (mean, inverse) = (&mean[..channels], &inverse[..channels]);
                            for c in 0..channels {
                                let g = if y[c] > 0.0 { g[c] } else { 0.0 };
                                first[c] += g;
                                second[c] += g * (x[c] - mean[c]) * inverse[c];
                            }
                        });
                        let n = cells as f64;
                        let by_beta: Vec<f32> = first.iter().map(|s| *s as f32).collect();
                        let by_gamma: Vec<f32> = second.iter().map(|s| *s as f32).collect();
                        // dx = scale · (g − offset − x · slope), with the batch's own mean and variance differentiated too
                        let scale: Vec<f32> = gamma_values.iter().zip(&inverse).map(|(g, i)| g * i).collect();
                        let slope: Vec<f32> = second.iter().zip(&inverse).map(|(s, i)| (s / n) as f32 * i).collect();
                        let offset: Vec<f32> = (0..channels).map(|c| (first[c] / n) as f32 - mean[c] * slope[c]).collect();
                        let mut by_x = vec![0.0; x_values.len()];
                        let width = CHUNK_CELLS * channels;
                        by_x.par_chunks_mut(width)
                            .zip(x_values.par_chunks(width))
                            .zip(y.par_chunks(width).zip(g.par_chunks(width)))
                            .for_each(|((out, x), (y, g))| {
                                let cells = x.chunks_exact(channels).zip(y.chunks_exact(channels).zip(g.chunks_exact(channels)));
                                let (scale, offset, slope) = (&scale[..channels], &offset[..channels], &slope[..channels]);
                                for (out, (x, (y, g))) in out.chunks_exact_mut(channels).zip(cells) {
                                    let (out, x, y, g) = (&mut out[..channels], &x[..channels], &y[..channels], &g[..channels]);
                                    for c in 0..channels {
                                        let g = if y[c] > 0.0 { g[c] } else { 0.0 };
                                        out[c] = scale[c] * (g - offset[c] - x[c] * slope[c]);
                                    }
                                }
                            });
                        Ok((
                            Some(Tensor::from_vec(by_x, x.shape(), device)?),
                            Some(Tensor::from_vec(by_gamma, gamma.shape(), device)?),
                            Some(Tensor::from_vec(by_beta, gamma.shape(), device)?),
                        ))
                    })
                })
            })
        })
    }
}

struct UpsampleOp;

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "upsample-nearest-2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, h, w, c) = dims4(layout)?;
        let out = upsampled(slice(storage, layout)?, w, c);
        Ok((CpuStorage::F32(out), (b, 2 * h, 2 * w, c).into()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, w, c) = x.dims4()?;
        let mut out = vec![0.0; x.elem_count()];
        let grad = grad.contiguous()?;
        with_slice(&grad, |g| {
            out.par_chunks_mut(w * c).zip(g.par_chunks(4 * w * c)).for_each(|(out, g)| {
                for row in g.chunks_exact(2 * w * c) {
                    for (to, from) in out.chunks_exact_mut(c).zip(row.chunks_exact(2 * c)) {
                        for (i, to) in to.iter_mut().enumerate() {
                            *to += from[i] + from[c + i];
                        }
                    }
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

/// Rows of `width` cells of `channels` values, each row and each cell twice.
#[must_use]
pub fn upsampled(x: &[f32], width: usize, channels: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len() * 4];
    out.par_chunks_mut(4 * width * channels).zip(x.par_chunks(width * channels)).for_each(|(out, row)| {
        let (top, bottom) = out.split_at_mut(2 * width * channels);
        for (to, from) in top.chunks_exact_mut(2 * channels).zip(row.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
            to[channels..].copy_from_slice(from);
        }
        bottom.copy_from_slice(top);
    });
    out
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
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn random(shape: &[usize]) -> Var {
        Var::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
        let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < tolerance, "differs by {worst}");
    }

    #[test]
    fn conv_and_its_gradients_agree_with_candles_own() {
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            let (x, w) = (random(&[2, 8, 10, 5]), random(&[kernel, kernel, 5, 6]));
            let ours = conv(&x, &w, stride).unwrap();
            let theirs = conv_of_candle(&x, &w, stride).unwrap();
            close(&ours, &theirs, 1e-4);
            let target = random(ours.dims());
            let loss = |y: &Tensor| (y * target.as_tensor()).unwrap().sum_all().unwrap();
            let (g1, g2) = (loss(&ours).backward().unwrap(), loss(&theirs).backward().unwrap());
            close(g1.get(&x).unwrap(), g2.get(&x).unwrap(), 1e-3);
            close(g1.get(&w).unwrap(), g2.get(&w).unwrap(), 1e-3);
        }
    }

    /// Central differences of a smooth loss, in f32: the step is wide because the function is a polynomial of low degree along every coordinate.
    #[test]
    fn gradients_agree_with_finite_differences() {
        const STEP: f32 = 0.05;
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            let (x, w) = (random(&[1, 5, 6, 3]), random(&[kernel, kernel, 3, 4]));
            let target = random(conv(&x, &w, stride).unwrap().dims());
            let loss = |x: &Tensor, w: &Tensor| (conv(x, w, stride).unwrap() * target.as_tensor()).unwrap().sum_all().unwrap();
            let grads = loss(&x, &w).backward().unwrap();
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (var, by_x) in [(&x, true), (&w, false)] {
                let (start, gradient) = (values(var), values(grads.get(var).unwrap()));
                for i in 0..start.len() {
                    let moved = |by: f32| {
                        let mut v = start.clone();
                        v[i] += by;
                        let v = Tensor::from_vec(v, var.dims(), &Device::Cpu).unwrap();
                        let l = if by_x { loss(&v, &w) } else { loss(&x, &v) };
                        l.to_scalar::<f32>().unwrap()
                    };
                    let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                    assert!((slope - gradient[i]).abs() < 2e-2, "{kernel} {stride} {by_x} {i}: {slope} {}", gradient[i]);
                }
            }
        }
    }

    #[test]
    fn norm_and_its_gradients_agree_with_composed_operations() {
        let (x, gamma, beta) = (random(&[2, 4, 3, 5]), random(&[5]), random(&[5]));
        let (ours, moments) = norm_relu(&x, &gamma, &beta).unwrap();
        let flat = x.flatten(0, 2).unwrap();
        let mean = flat.mean_keepdim(0).unwrap();
        let centred = flat.broadcast_sub(&mean).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(0).unwrap();
        let normal = centred.broadcast_div(&(&variance + f64::from(NORM_EPSILON)).unwrap().sqrt().unwrap()).unwrap();
        let theirs = normal.broadcast_mul(&gamma).unwrap().broadcast_add(&beta).unwrap().relu().unwrap().reshape(x.shape()).unwrap();
        close(&ours, &theirs, 1e-5);
        close(&Tensor::new(moments.variance, &Device::Cpu).unwrap(), &variance.flatten_all().unwrap(), 1e-5);
        let target = random(ours.dims());
        let loss = |y: &Tensor| (y * target.as_tensor()).unwrap().sum_all().unwrap();
        let (g1, g2) = (loss(&ours).backward().unwrap(), loss(&theirs).backward().unwrap());
        for v in [&x, &gamma, &beta] {
            close(g1.get(v).unwrap(), g2.get(v).unwrap(), 1e-4);
        }
    }

    #[test]
    fn upsampling_repeats_and_its_gradient_sums() {
        let x = random(&[2, 3, 2, 4]);
        let y = upsample(&x).unwrap();
        assert_eq!(y.dims(), [2, 6, 4, 4]);
        let target = random(y.dims());
        let grads = (&y * target.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let expected = target.reshape((2, 3, 2, 2, 2, 4)).unwrap().sum(4).unwrap().sum(2).unwrap();
        close(grads.get(&x).unwrap(), &expected, 1e-5);
        let first = y.get(0).unwrap().get(1).unwrap().get(1).unwrap();
        close(&first, &x.get(0).unwrap().get(0).unwrap().get(0).unwrap(), 1e-6);
    }
}
