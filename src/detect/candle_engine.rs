//! The network on candle: folded weights, channels-last maps, our own convolution ([`conv`]); in f32, or with weights in Q8_0 where a layer suits.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::conv::{self, Shape};
use super::network::{Conv, Graph, NetworkSpec, Op};
use super::ops::{upsample, with_slice};
use super::q8_0::{self, Q8Layer};
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
#[derive(Clone)]
pub struct CandleEngine(Arc<Network>);

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
        Ok(Self(Arc::new(Network { context: spec.context, encoder, heads, layers, quantization, device })))
    }
}

/// A copy; candle's own goes value by value.
fn values_of(x: &Tensor) -> Result<Vec<f32>> {
    with_slice(&x.contiguous()?, |x| Ok(x.to_vec()))
}

impl Network {
    fn run(&self, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut inputs = inputs.into_iter();
        let mut values: Vec<Tensor> = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            values.push(match &node.op {
                Op::Input => inputs.next().ok_or_else(|| candle_core::Error::Msg("too few inputs".into()))?,
                Op::Conv(c, x) => {
                    let Some(weights) = self.layers.get(&c.name) else { candle_core::bail!("layer {} is missing", c.name) };
                    weights.forward(c, &values[*x])?
                }
                Op::Add(a, b) => (&values[*a] + &values[*b])?,
                Op::Concat(a, b) => Tensor::cat(&[&values[*a], &values[*b]], 3)?,
                Op::Upsample(x) => upsample(&values[*x])?,
            });
        }
        Ok(graph.outputs.iter().map(|o| values[*o].clone()).collect())
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
                let mut x = Vec::with_capacity(h * w * c * window.len());
                for cell in 0..h * w {
                    window.iter().for_each(|f| x.extend_from_slice(&f.levels[level][cell * c..(cell + 1) * c]));
                }
                Tensor::from_vec(x, (1, h, w, c * window.len()), &self.device)
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

/// Enters the thread pool once for the whole network instead of once a layer: of several slots at once each then stays on a worker of its own, and a worker
/// without a slot takes its share of another's layers.
fn in_pool<T: Send>(network: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| network())
}

impl Engine for CandleEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn quantization(&self) -> &'static str {
        self.0.quantization
    }

    fn context(&self) -> usize {
        self.0.context
    }

    fn fork(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }

    fn encode(&mut self, slot: &SlotInput) -> std::result::Result<Features, EngineError> {
        in_pool(|| self.0.encode(slot)).map_err(|e| EngineError::Failed { engine: NAME, reason: e.to_string() })
    }

    fn heads(&mut self, window: &[&Features]) -> std::result::Result<Vec<Map>, EngineError> {
        in_pool(|| self.0.heads(window)).map_err(|e| EngineError::Failed { engine: NAME, reason: e.to_string() })
    }
}
