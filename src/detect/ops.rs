//! The network's operators on the CPU as candle functions with gradients of their own, on channels-last maps `[b, h, w, c]`: they run [`conv`]'s kernels.
//! On another device `composed` stands for them.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::conv;
use super::norm::{self, Moments};
use super::walk::Joins;

/// What has no weights.
pub const JOINS: Joins = Joins { add, upsample };

/// Values of a map that a thread adds at a time.
const ADDED_AT_ONCE: usize = 16 * 1024;

/// Convolution of `x [b, h, w, inputs]` with `weights [kernel, kernel, inputs, outputs]`.
///
/// # Errors
/// candle's, where shapes disagree.
pub fn conv(x: &Tensor, weights: &Tensor, stride: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weights.contiguous()?, ConvOp { stride })
}

/// The moments of a map's channels, from any device.
///
/// # Errors
/// candle's.
pub fn channel_moments(x: &Tensor) -> Result<Moments> {
    let channels = x.dim(candle_core::D::Minus1)?;
    with_slice(&x.to_device(&candle_core::Device::Cpu)?.contiguous()?, |x| Ok(norm::moments(x, channels)))
}

/// Batch norm by the batch's own moments, then ReLU. Returns the moments for the running average.
///
/// # Errors
/// candle's.
pub fn norm_relu(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<(Tensor, Moments)> {
    let x = x.contiguous()?;
    let moments = with_slice(&x, |x| Ok(norm::moments(x, gamma.elem_count())))?;
    let op = NormReluOp { moments: Arc::new(moments.clone()) };
    Ok((x.apply_op3(gamma, beta, op)?, moments))
}

/// Sum of two maps of one shape. candle's own waits by spinning for a pool of threads beside ours.
///
/// # Errors
/// candle's; shapes that differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, AddOp)
}

/// Every cell twice in both directions.
///
/// # Errors
/// candle's.
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(UpsampleOp)
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
        let y = norm::forward(slice(s1, l1)?, &self.moments, slice(s2, l2)?, slice(s3, l3)?);
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
        let grad = grad.contiguous()?;
        let all = with_slice(x, |x| {
            with_slice(y, |y| with_slice(&grad, |g| with_slice(gamma, |gamma| Ok(norm::backward(x, y, g, &self.moments, gamma)))))
        })?;
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), x.device()).map(Some);
        Ok((tensor(all.by_x, x)?, tensor(all.by_gamma, gamma)?, tensor(all.by_beta, gamma)?))
    }
}

struct AddOp;

impl CustomOp2 for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if l1.shape() != l2.shape() {
            bail!("maps of {:?} and {:?} have no sum", l1.dims(), l2.dims());
        }
        Ok((CpuStorage::F32(sum(slice(s1, l1)?, slice(s2, l2)?)), l1.shape().clone()))
    }

    fn bwd(&self, _a: &Tensor, _b: &Tensor, _sum: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

/// Value by value.
fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut out = a.to_vec();
    out.par_chunks_mut(ADDED_AT_ONCE).zip(b.par_chunks(ADDED_AT_ONCE)).for_each(|(out, b)| {
        for (to, from) in out.iter_mut().zip(b) {
            *to += from;
        }
    });
    out
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

/// Maps of one size side by side, cell by cell: `channels` values of each in turn. A map that is too short leaves the result too short.
#[must_use]
pub fn beside(maps: &[&[f32]], channels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(maps.iter().map(|m| m.len()).sum());
    for at in (0..maps.first().map_or(0, |m| m.len())).step_by(channels.max(1)) {
        maps.iter().filter_map(|map| map.get(at..at + channels)).for_each(|cell| out.extend_from_slice(cell));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::composed;
    use crate::detect::train_net::Convolution;
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
        // Where a stride leaves a column over, candle's own has no gradient.
        let candles: [(&str, usize, Convolution); 2] = [("conv2d", 10, composed::conv2d), ("composed", 11, composed::conv)];
        for ((name, width, theirs), (kernel, stride)) in candles.into_iter().flat_map(|c| [(1, 1), (3, 1), (3, 2)].map(|k| (c, k))) {
            let (x, w) = (random(&[2, 8, width, 5]), random(&[kernel, kernel, 5, 6]));
            let (ours, theirs) = (conv(&x, &w, stride).unwrap(), theirs(&x, &w, stride).unwrap());
            println!("{name} {kernel} {stride}");
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
        let (theirs, wanted) = composed::norm_relu(&x, &gamma, &beta).unwrap();
        close(&ours, &theirs, 1e-5);
        for (got, wanted) in [(moments.mean, wanted.mean), (moments.variance, wanted.variance)] {
            close(&Tensor::new(got, &Device::Cpu).unwrap(), &Tensor::new(wanted, &Device::Cpu).unwrap(), 1e-5);
        }
        let target = random(ours.dims());
        let loss = |y: &Tensor| (y * target.as_tensor()).unwrap().sum_all().unwrap();
        let (g1, g2) = (loss(&ours).backward().unwrap(), loss(&theirs).backward().unwrap());
        for v in [&x, &gamma, &beta] {
            close(g1.get(v).unwrap(), g2.get(v).unwrap(), 1e-4);
        }
    }

    #[test]
    fn a_sum_is_candles_own_and_hands_its_gradient_on() {
        // More values than a thread adds at a time, and no whole number of times as many.
        let (a, b) = (random(&[2, 70, 50, 5]), random(&[2, 70, 50, 5]));
        let y = add(&a, &b).unwrap();
        close(&y, &(a.as_tensor() + b.as_tensor()).unwrap(), 1e-6);
        let target = random(y.dims());
        let grads = (&y * target.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        for v in [&a, &b] {
            close(grads.get(v).unwrap(), &target, 1e-6);
        }
        assert!(add(&a, &random(&[2, 50, 70, 5])).unwrap_err().to_string().contains("have no sum"));
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
