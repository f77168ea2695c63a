//! The network in training: [`NetworkSpec`]'s graphs over candle variables, with batch norm behind every convolution but the last ones.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::network::{Conv, Graph, HEAD_CHANNELS, NetworkSpec};
use super::norm::{EPSILON, Moments, Running};
use super::ops::channel_moments;
use super::walk::{Joins, walk};
use super::weights::{FoldedWeights, Layer};
use super::{composed, ops};

/// Share of a new batch in the running moments.
const MOMENTUM: f32 = 0.03;
/// Objectness that every cell starts with: lesions are rare (focal loss, Lin et al. 2017, 4.1).
const PRIOR: f32 = 0.01;

/// A convolution of `x [b, h, w, inputs]` with `weights [kernel, kernel, inputs, outputs]` at a stride, with a gradient.
pub type Convolution = fn(&Tensor, &Tensor, usize) -> Result<Tensor>;

/// What the network is computed by; each with a gradient.
#[derive(Debug, Clone, Copy)]
pub struct Operations {
    /// Convolution.
    pub conv: Convolution,
    /// Batch norm of `x` by its own moments, with gamma and beta, then ReLU.
    pub norm_relu: fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Moments)>,
    /// What has no weights.
    pub joins: Joins,
}

impl Operations {
    /// Ours, on the CPU.
    pub const OURS: Self = Self { conv: ops::conv, norm_relu: ops::norm_relu, joins: ops::JOINS };
    /// Composed of candle's own, on any device.
    pub const COMPOSED: Self = Self { conv: composed::conv, norm_relu: composed::norm_relu, joins: composed::JOINS };
    /// Ours, but for candle's own convolution: to hold ours against.
    pub const CONV2D: Self = Self { conv: composed::conv2d, ..Self::OURS };

    /// The faster ones on this device.
    fn on(device: &Device) -> Self {
        if device.is_cpu() { Self::OURS } else { Self::COMPOSED }
    }
}

/// Variables and running moments of one network.
pub struct TrainNet {
    spec: NetworkSpec,
    encoder: Graph,
    heads: Graph,
    device: Device,
    vars: HashMap<String, Var>,
    running: HashMap<String, Running>,
    operations: Operations,
}

impl TrainNet {
    /// A network with He-initialised weights.
    ///
    /// # Errors
    /// candle's; a spec that describes no network.
    pub fn new(spec: &NetworkSpec, device: &Device, seed: u64) -> Result<Self> {
        if let Err(reason) = spec.check() {
            bail!("network spec: {reason}");
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let (encoder, heads) = (spec.encoder(), spec.heads());
        let (mut vars, mut running) = (HashMap::new(), HashMap::new());
        for c in [&encoder, &heads].into_iter().flat_map(Graph::convs) {
            let depth = c.kernel * c.kernel * c.inputs;
            let deviation = (2.0 / depth as f32).sqrt() * if c.norm_relu { 1.0 } else { 0.1 };
            // Irwin-Hall: near enough to a normal deviate, and free of another dependency.
            let mut deviate = || ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0) * deviation;
            let weights: Vec<f32> = (0..depth * c.outputs).map(|_| deviate()).collect();
            let weights = Tensor::from_vec(weights, (c.kernel, c.kernel, c.inputs, c.outputs), device)?;
            vars.insert(format!("{}.weight", c.name), Var::from_tensor(&weights)?);
            let mut bias = vec![0.0f32; c.outputs];
            if c.norm_relu {
                vars.insert(format!("{}.gamma", c.name), Var::ones(c.outputs, candle_core::DType::F32, device)?);
                running.insert(c.name.clone(), Running::new(c.outputs));
            } else if c.outputs == HEAD_CHANNELS {
                bias[0] = -((1.0 - PRIOR) / PRIOR).ln();
            }
            vars.insert(format!("{}.beta", c.name), Var::from_tensor(&Tensor::from_vec(bias, c.outputs, device)?)?);
        }
        Ok(Self { spec: spec.clone(), encoder, heads, device: device.clone(), vars, running, operations: Operations::on(device) })
    }

    /// The same network computed in another way.
    #[must_use]
    pub fn with_operations(self, operations: Operations) -> Self {
        Self { operations, ..self }
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Trainable variables by name, sorted: `<layer>.weight`, `.gamma`, `.beta`.
    #[must_use]
    pub fn vars(&self) -> Vec<(String, Var)> {
        let mut vars: Vec<_> = self.vars.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        vars
    }

    /// `x`: `[samples · slots, h, w, 3]`, a sample's slots one after the other; `slots` is 1 (the slot stands for its neighbours too, the encoder runs
    /// once) or the spec's context. Returns per level `[samples, h / stride, w / stride, 18]` for the middle slot. `train` normalises by the batch
    /// and moves the running moments; otherwise those are used.
    ///
    /// # Errors
    /// candle's; another number of slots.
    pub fn forward(&self, x: &Tensor, slots: usize, train: bool) -> Result<Vec<Tensor>> {
        let context = self.spec.context;
        if slots != 1 && slots != context {
            bail!("{slots} slots a sample: 1 or {context} are supported");
        }
        let maps = self.run(&self.encoder, vec![x.clone()], train)?;
        let fused = maps
            .into_iter()
            .map(|map| {
                let (n, h, w, c) = map.dims4()?;
                if slots == 1 {
                    return Tensor::cat(&vec![&map; context], 3);
                }
                // [b · s, h, w, c] → [b, h, w, s · c], oldest slot first
                map.reshape((n / slots, slots, h * w, c))?.permute((0, 2, 1, 3))?.contiguous()?.reshape((n / slots, h, w, slots * c))
            })
            .collect::<Result<Vec<_>>>()?;
        self.run(&self.heads, fused, train)
    }

    fn run(&self, graph: &Graph, inputs: Vec<Tensor>, train: bool) -> Result<Vec<Tensor>> {
        walk(graph, inputs, |x, c| self.layer(c, x, train), self.operations.joins)
    }

    fn var(&self, layer: &str, what: &str) -> Result<&Tensor> {
        match self.vars.get(&format!("{layer}.{what}")) {
            Some(var) => Ok(var.as_tensor()),
            None => bail!("no variable {layer}.{what}"),
        }
    }

    fn layer(&self, c: &Conv, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = (self.operations.conv)(x, self.var(&c.name, "weight")?, c.stride)?;
        let beta = self.var(&c.name, "beta")?;
        let Some(running) = self.running.get(&c.name) else { return y.broadcast_add(beta) };
        let gamma = self.var(&c.name, "gamma")?;
        if train {
            let (y, moments) = (self.operations.norm_relu)(&y, gamma, beta)?;
            running.update(&moments, MOMENTUM);
            return Ok(y);
        }
        let Moments { mean, variance } = running.get();
        let mean = Tensor::from_vec(mean, c.outputs, &self.device)?;
        let scale = (gamma / (Tensor::from_vec(variance, c.outputs, &self.device)? + f64::from(EPSILON))?.sqrt()?)?;
        y.broadcast_sub(&mean)?.broadcast_mul(&scale)?.broadcast_add(beta)?.relu()
    }

    /// Takes over folded weights. Their batch norm is gone: each layer gets the one that does nothing on `x` (slots, `[n, h, w, 3]`), whose moments it
    /// then has, so that training goes on from the same function.
    ///
    /// # Errors
    /// Weights of another network; candle's.
    pub fn start_from(&self, weights: &FoldedWeights, x: &Tensor) -> Result<()> {
        if let Err(reason) = weights.check(&self.spec) {
            bail!("initial weights: {reason}");
        }
        let maps = self.take_over(&self.encoder, vec![x.clone()], weights)?;
        let repeated = maps.iter().map(|map| Tensor::cat(&vec![map; self.spec.context], 3)).collect::<Result<Vec<_>>>()?;
        self.take_over(&self.heads, repeated, weights).map(|_| ())
    }

    fn take_over(&self, graph: &Graph, inputs: Vec<Tensor>, weights: &FoldedWeights) -> Result<Vec<Tensor>> {
        let layer = |x: &Tensor, c: &Conv| {
            let folded = weights.layer(c).map_err(candle_core::Error::msg)?;
            self.set(c, "weight", Tensor::from_slice(&folded.weights, (c.kernel, c.kernel, c.inputs, c.outputs), &self.device)?)?;
            let Some(running) = self.running.get(&c.name) else {
                self.set(c, "beta", Tensor::from_slice(&folded.bias, c.outputs, &self.device)?)?;
                return self.layer(c, x, false);
            };
            let moments = channel_moments(&(self.operations.conv)(x, self.var(&c.name, "weight")?, c.stride)?)?;
            let gamma: Vec<f32> = moments.variance.iter().map(|v| (v + EPSILON).sqrt()).collect();
            let beta: Vec<f32> = folded.bias.iter().zip(&moments.mean).map(|(b, m)| b + m).collect();
            running.set(moments);
            self.set(c, "gamma", Tensor::from_vec(gamma, c.outputs, &self.device)?)?;
            self.set(c, "beta", Tensor::from_vec(beta, c.outputs, &self.device)?)?;
            self.layer(c, x, false)
        };
        walk(graph, inputs, layer, self.operations.joins)
    }

    fn set(&self, c: &Conv, what: &str, value: Tensor) -> Result<()> {
        match self.vars.get(&format!("{}.{what}", c.name)) {
            Some(var) => var.set(&value),
            None => bail!("no variable {}.{what}", c.name),
        }
    }

    /// Variables and running moments by name, for a checkpoint.
    ///
    /// # Errors
    /// candle's.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state: HashMap<String, Tensor> = self.vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().detach())).collect();
        for (name, running) in &self.running {
            let Moments { mean, variance } = running.get();
            state.insert(format!("{name}.mean"), Tensor::new(mean, &Device::Cpu)?);
            state.insert(format!("{name}.variance"), Tensor::new(variance, &Device::Cpu)?);
        }
        Ok(state)
    }

    /// Takes over what [`TrainNet::state`] gave.
    ///
    /// # Errors
    /// A name that is missing or a shape that differs.
    pub fn load_state(&self, state: &HashMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| match state.get(name) {
            Some(t) => Ok(t),
            None => bail!("checkpoint: {name} is missing"),
        };
        for (name, var) in &self.vars {
            var.set(&get(name)?.to_device(&self.device)?)?;
        }
        for (name, running) in &self.running {
            let own = running.get();
            let (mean, variance) = (get(&format!("{name}.mean"))?.to_vec1()?, get(&format!("{name}.variance"))?.to_vec1()?);
            if mean.len() != own.mean.len() || variance.len() != own.variance.len() {
                bail!("checkpoint: {name} has another number of channels");
            }
            running.set(Moments { mean, variance });
        }
        Ok(())
    }

    /// Batch norm multiplied into the weights, for inference and export.
    ///
    /// # Errors
    /// candle's.
    pub fn fold(&self) -> Result<FoldedWeights> {
        let mut folded = FoldedWeights::default();
        for c in [&self.encoder, &self.heads].into_iter().flat_map(Graph::convs) {
            let values = |what: &str| self.var(&c.name, what)?.flatten_all()?.to_vec1::<f32>();
            let (mut weights, mut bias) = (values("weight")?, values("beta")?);
            if let Some(running) = self.running.get(&c.name) {
                let Moments { mean, variance } = running.get();
                let scale: Vec<f32> = values("gamma")?.iter().zip(&variance).map(|(g, v)| g / (v + EPSILON).sqrt()).collect();
                for row in weights.chunks_exact_mut(c.outputs) {
                    for (w, s) in row.iter_mut().zip(&scale) {
                        *w *= s;
                    }
                }
                for ((b, m), s) in bias.iter_mut().zip(&mean).zip(&scale) {
                    *b -= m * s;
                }
            }
            folded.0.insert(c.name.clone(), Layer { weights, bias });
        }
        Ok(folded)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_equals_the_slot_repeated() {
        let spec = NetworkSpec::tiny();
        let net = TrainNet::new(&spec, &Device::Cpu, 1).unwrap();
        let x = Tensor::rand(0f32, 1f32, (1, 64, 32, 3), &Device::Cpu).unwrap();
        let repeated = Tensor::cat(&vec![&x; spec.context], 0).unwrap();
        let (a, b) = (net.forward(&x, 1, false).unwrap(), net.forward(&repeated, spec.context, false).unwrap());
        for (level, (a, b)) in a.iter().zip(&b).enumerate() {
            assert_eq!(a.dims(), [1, 16 >> level, 8 >> level, HEAD_CHANNELS]);
            let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-4);
        }
    }

    #[test]
    fn a_checkpoint_brings_back_the_same_network() {
        let spec = NetworkSpec::tiny();
        let x = Tensor::rand(0f32, 1f32, (2, 32, 32, 3), &Device::Cpu).unwrap();
        let (a, b) = (TrainNet::new(&spec, &Device::Cpu, 1).unwrap(), TrainNet::new(&spec, &Device::Cpu, 2).unwrap());
        a.forward(&x, 1, true).unwrap();
        b.load_state(&a.state().unwrap()).unwrap();
        assert_eq!(a.fold().unwrap(), b.fold().unwrap());
    }

    #[test]
    fn training_goes_on_from_folded_weights() {
        let spec = NetworkSpec::tiny();
        let x = Tensor::rand(0f32, 1f32, (2, 32, 32, 3), &Device::Cpu).unwrap();
        let (a, b) = (TrainNet::new(&spec, &Device::Cpu, 1).unwrap(), TrainNet::new(&spec, &Device::Cpu, 2).unwrap());
        a.forward(&x, 1, true).unwrap();
        b.start_from(&a.fold().unwrap(), &x).unwrap();
        for train in [false, true] {
            for (a, b) in a.forward(&x, 1, false).unwrap().iter().zip(&b.forward(&x, 1, train).unwrap()) {
                let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(worst < 1e-3, "{worst}");
            }
        }
        assert!(TrainNet::new(&NetworkSpec::cpu(), &Device::Cpu, 1).unwrap().start_from(&a.fold().unwrap(), &x).is_err());
    }

    /// What a GPU runs, on the CPU: the same maps, the same gradients, the same running moments. With every value well above zero: at ReLU's bend rounding
    /// would decide about whole gradients, and `ops` holds the operators to each other there.
    #[test]
    fn composed_operations_train_the_same_network() {
        let spec = NetworkSpec { blocks: [1, 1, 1, 1], head: [1, 1, 1], ..NetworkSpec::tiny() };
        let (height, width) = (64, 32);
        let mut rng = StdRng::seed_from_u64(5);
        let values: Vec<f32> = (0..spec.context * height * width * 3).map(|_| rng.random()).collect();
        let x = Tensor::from_vec(values, (spec.context, height, width, 3), &Device::Cpu).unwrap();
        let of = |operations| {
            let net = TrainNet::new(&spec, &Device::Cpu, 1).unwrap().with_operations(operations);
            for (_, beta) in net.vars().iter().filter(|(name, _)| name.ends_with(".beta")) {
                beta.set(&(beta.ones_like().unwrap() * 8.0).unwrap()).unwrap();
            }
            let maps = net.forward(&x, spec.context, true).unwrap();
            let loss = maps.iter().map(|y| y.sqr().unwrap().sum_all().unwrap()).reduce(|a, b| (a + b).unwrap()).unwrap();
            let grads = loss.backward().unwrap();
            let mut values: Vec<Tensor> = net.vars().iter().map(|(_, v)| grads.get(v).unwrap().clone()).collect();
            values.extend(maps);
            let mut state: Vec<_> = net.state().unwrap().into_iter().collect();
            state.sort_by(|a, b| a.0.cmp(&b.0));
            values.extend(state.into_iter().map(|(_, t)| t));
            values.iter().map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
        };
        for (ours, composed) in of(Operations::OURS).iter().zip(&of(Operations::COMPOSED)) {
            let most = ours.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
            assert!(ours.iter().zip(composed).all(|(a, b)| (a - b).abs() < most * 1e-3));
        }
    }

    #[test]
    fn every_variable_gets_a_gradient() {
        let net = TrainNet::new(&NetworkSpec::tiny(), &Device::Cpu, 1).unwrap();
        let x = Tensor::rand(0f32, 1f32, (2, 32, 32, 3), &Device::Cpu).unwrap();
        let loss =
            net.forward(&x, 1, true).unwrap().iter().map(|y| y.sqr().unwrap().sum_all().unwrap()).reduce(|a, b| (a + b).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in net.vars() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
    }
}
