//! The network on candle: folded weights, channels-last maps, our own convolution ([`conv`]); in f32, or with weights in Q8_0 where a layer suits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Result, Tensor};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::conv::{self, Shape};
use super::network::{Conv, Graph, NetworkSpec};
use super::ops::{self, beside, with_slice};
use super::q8_0::{self, Q8Layer};
use super::walk::walk;
use super::weights::FoldedWeights;
use super::{Engine, EngineError, Features, Map, SlotInput};

const NAME: &str = "candle-cpu";

/// Weights on a device and the graphs that use them.
struct Network {
    context: usize,
    encoder: Graph,
    heads: Graph,
    /// By layer name.
    layers: HashMap<String, Weights>,
    quantization: &'static str,
    device: Device,
}

/// Weights of one convolution.
enum Weights {
    F32(conv::Layer),
    Q8(Q8Layer),
}

impl Weights {
    fn forward(&self, c: &Conv, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, inputs) = x.dims4()?;
        if inputs != c.inputs {
            candle_core::bail!("layer {} takes {} channels, the map has {inputs}", c.name, c.inputs);
        }
        let shape = Shape { batch, height, width, inputs, outputs: c.outputs, kernel: c.kernel, stride: c.stride };
        let y = with_slice(&x.contiguous()?, |x| {
            Ok(match self {
                Self::F32(layer) => layer.forward(shape, x),
                Self::Q8(layer) => layer.forward(shape, x),
            })
        })?;
        Tensor::from_vec(y, (batch, shape.out_height(), shape.out_width(), c.outputs), x.device())
    }
}

/// candle on the CPU.
///
/// A slot by itself is worked on by all threads together, layer by layer. Of several at once each has one thread from end to end, which takes a quarter less
/// processor time: maps stay in one core's cache, and nobody waits for the last part of a layer.
pub struct CandleEngine {
    network: Arc<Network>,
    /// Forks that are at work.
    busy: Arc<AtomicUsize>,
    /// The fork's own thread; without one (none to be had) all share theirs.
    own: Option<ThreadPool>,
}

impl CandleEngine {
    /// Takes the weights over to the CPU device.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where weights do not fit the spec.
    pub fn new(spec: &NetworkSpec, weights: &FoldedWeights) -> std::result::Result<Self, EngineError> {
        Self::with(spec, weights, "f32")
    }

    /// As [`CandleEngine::new`], with weights and maps in Q8_0 where [`q8_0::suits`] says so.
    ///
    /// # Errors
    /// As [`CandleEngine::new`].
    pub fn quantized(spec: &NetworkSpec, weights: &FoldedWeights) -> std::result::Result<Self, EngineError> {
        Self::with(spec, weights, "q8_0")
    }

    fn with(spec: &NetworkSpec, weights: &FoldedWeights, quantization: &'static str) -> std::result::Result<Self, EngineError> {
        let device = Device::Cpu;
        let (encoder, heads) = (spec.encoder(), spec.heads());
        let mut layers = HashMap::new();
        for c in [&encoder, &heads].into_iter().flat_map(Graph::convs) {
            let layer = weights.layer(c).map_err(|reason| EngineError::Unavailable { engine: NAME, reason })?;
            let ready = match quantization {
                "q8_0" if q8_0::suits(c) => Weights::Q8(Q8Layer::new(c, layer)),
                _ => Weights::F32(conv::Layer::new(c, layer)),
            };
            layers.insert(c.name.clone(), ready);
        }
        Ok(Self::on(Arc::new(Network { context: spec.context, encoder, heads, layers, quantization, device }), Arc::default()))
    }

    fn on(network: Arc<Network>, busy: Arc<AtomicUsize>) -> Self {
        let own = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| format!("{NAME} slot")).build().ok();
        Self { network, busy, own }
    }

    fn run<T: Send>(&self, job: impl FnOnce(&Network) -> Result<T> + Send) -> std::result::Result<T, EngineError> {
        let busy = Busy::count(&self.busy);
        let result = match &self.own {
            Some(own) if busy.forks * 2 > rayon::current_num_threads() => own.install(|| job(&self.network)),
            _ => rayon::scope(|_| job(&self.network)),
        };
        result.map_err(|e| EngineError::Failed { engine: NAME, reason: e.to_string() })
    }
}

/// A fork at work, counted until it is dropped, by a panic too.
struct Busy<'a> {
    count: &'a AtomicUsize,
    /// Forks at work when this one began, itself among them.
    forks: usize,
}

impl<'a> Busy<'a> {
    fn count(count: &'a AtomicUsize) -> Self {
        Self { count, forks: count.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A copy; candle's own goes value by value.
fn values_of(x: &Tensor) -> Result<Vec<f32>> {
    with_slice(&x.contiguous()?, |x| Ok(x.to_vec()))
}

impl Network {
    fn run(&self, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let conv = |x: &Tensor, c: &Conv| match self.layers.get(&c.name) {
            Some(weights) => weights.forward(c, x),
            None => candle_core::bail!("layer {} is missing", c.name),
        };
        walk(graph, inputs, conv, ops::JOINS)
    }

    fn encode(&self, slot: &SlotInput) -> Result<Features> {
        let x = Tensor::from_slice(&slot.data, (1, slot.height, slot.width, 3), &self.device)?;
        let maps = self.run(&self.encoder, vec![x])?;
        let levels = maps.iter().map(values_of).collect::<Result<Vec<_>>>()?;
        Ok(Features { size: (slot.height, slot.width), levels })
    }

    fn heads(&self, window: &[&Features]) -> Result<Vec<Map>> {
        let (h, w) = window.first().map_or((0, 0), |f| f.size);
        let inputs = (0..self.heads.outputs.len())
            .map(|level| {
                let node = &self.heads.nodes[level];
                let (h, w, c) = (h / node.stride, w / node.stride, node.channels / self.context);
                let maps: Vec<&[f32]> = window.iter().filter_map(|f| f.levels.get(level).map(Vec::as_slice)).collect();
                Tensor::from_vec(beside(&maps, c), (1, h, w, c * window.len()), &self.device)
            })
            .collect::<Result<Vec<_>>>()?;
        let outputs = self.run(&self.heads, inputs)?;
        outputs
            .iter()
            .map(|y| {
                let (_, height, width, channels) = y.dims4()?;
                Ok(Map { height, width, channels, data: values_of(y)? })
            })
            .collect()
    }
}

impl Engine for CandleEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn quantization(&self) -> &'static str {
        self.network.quantization
    }

    fn context(&self) -> usize {
        self.network.context
    }

    fn fork(&self) -> Box<dyn Engine> {
        Box::new(Self::on(Arc::clone(&self.network), Arc::clone(&self.busy)))
    }

    fn encode(&mut self, slot: &SlotInput) -> std::result::Result<Features, EngineError> {
        self.run(|network| network.encode(slot))
    }

    fn heads(&mut self, window: &[&Features]) -> std::result::Result<Vec<Map>, EngineError> {
        self.run(|network| network.heads(window))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::detect::weights::Layer;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin() * 0.1).collect()
    }

    /// A slot alone is shared by all threads, of four at once some have a thread of their own: the sums are the same, bit for bit.
    #[test]
    fn slots_at_once_are_what_they_are_alone() {
        let spec = NetworkSpec::cpu();
        let mut weights = FoldedWeights(BTreeMap::new());
        for graph in [spec.encoder(), spec.heads()] {
            for (i, c) in graph.convs().enumerate() {
                let of = wave(c.kernel * c.kernel * c.inputs * c.outputs, 0.7 + i as f32 * 0.01);
                weights.0.insert(c.name.clone(), Layer { weights: of, bias: wave(c.outputs, 0.3) });
            }
        }
        let mut engine = CandleEngine::new(&spec, &weights).unwrap();
        let slots: Vec<SlotInput> =
            (0..4).map(|i| SlotInput { height: 96, width: 128, data: wave(96 * 128 * 3, 0.1 + i as f32 * 0.03) }).collect();
        let alone: Vec<Features> = slots.iter().map(|slot| engine.encode(slot).unwrap()).collect();
        for _ in 0..5 {
            std::thread::scope(|scope| {
                for (slot, alone) in slots.iter().zip(&alone) {
                    let mut fork = engine.fork();
                    scope.spawn(move || assert!(fork.encode(slot).unwrap() == *alone));
                }
            });
        }
        assert_eq!(engine.busy.load(Ordering::Relaxed), 0);
        let window: Vec<&Features> = alone.iter().take(3).collect();
        assert!(engine.heads(&window).unwrap().iter().flat_map(|m| &m.data).any(|v| *v != 0.0));
        // What does not fit is an error, not a panic and not a result.
        assert!(engine.heads(&window[..2]).is_err());
        let cut = Features { levels: alone[0].levels.iter().map(|l| l[..l.len() / 2].to_vec()).collect(), ..alone[0].clone() };
        assert!(engine.heads(&[window[0], &cut, window[2]]).is_err() && engine.heads(&[&cut, window[1], window[2]]).is_err());
    }
}
