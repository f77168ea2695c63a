//! The network over candle's own operations on any device: im2col, then one matrix product a layer, several slots at a time. What a GPU runs; on
//! `Device::Cpu` the very same code is held against the CPU's own engines.
//!
//! A 1×1 convolution is the product itself on channels-last maps; of a 3×3 one the nine taps are laid side by side first. *Format* says in what the
//! product computes: f32, f16, or Q8_0 (weights and, on the fly, maps in int8 by blocks of 32; candle's `QMatMul`). Layers whose shape blocks do not suit
//! stay f32 with Q8_0 ([`q8_0::suits`]); those that end in logits compute in f32 always, since boxes are decoded from what they say.

use std::collections::HashMap;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Module, Result, Tensor};

use super::batch::BatchNetwork;
use super::composed::{self, columns};
use super::network::{Conv, Graph, NetworkSpec, Node, Op};
use super::walk::walk;
use super::weights::FoldedWeights;
use super::{Features, Map, SlotInput, gguf, q8_0};

/// Slots at once at most: beyond, a launch costs next to nothing of what it starts.
pub const MOST_SLOTS: usize = 16;
/// Share of the free memory that a batch may take; of a Jetson's, everything else on the board wants some too.
const MEMORY_SHARE: u64 = 2;
/// Bytes of a value while maps are counted; f16's are half of that.
const VALUE_BYTES: usize = 4;
/// candle's int8 product pads rows of maps to this many columns, and takes 144 bytes for 128 of them.
const Q8_COLUMNS: usize = 512;

/// Tells how many bytes of the device's memory are free; `None` where nobody knows.
pub type Free = Box<dyn Fn() -> Option<u64> + Send>;

/// In what the products compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Single precision.
    F32,
    /// Half precision, sums in single.
    F16,
    /// int8 by blocks of 32 with one scale each.
    Q8_0,
}

impl Format {
    /// As [`super::Engine::quantization`] says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// What maps are held in.
    const fn map(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 | Self::Q8_0 => DType::F32,
        }
    }
}

/// One convolution.
struct Layer {
    weights: Weights,
    /// `[outputs]`.
    bias: Tensor,
}

enum Weights {
    /// `[kernel · kernel · inputs, outputs]`.
    Plain(Tensor),
    /// One row of blocks an output channel.
    Blocks(QMatMul),
}

/// Weights on a device, and the graphs that use them.
pub struct DeviceNet {
    context: usize,
    format: Format,
    encoder: Graph,
    heads: Graph,
    /// By layer name.
    layers: HashMap<String, Layer>,
    device: Device,
    free: Free,
}

impl DeviceNet {
    /// Takes the weights over to `device`; `free` is asked before each batch.
    ///
    /// # Errors
    /// A sentence naming the layer that does not fit the spec, or what the device said.
    pub fn new(
        spec: &NetworkSpec,
        weights: &FoldedWeights,
        format: Format,
        device: Device,
        free: Free,
    ) -> std::result::Result<Self, String> {
        let (encoder, heads) = (spec.encoder(), spec.heads());
        let mut blocks = if format == Format::Q8_0 { gguf::blocks(spec, weights, &device)? } else { HashMap::new() };
        let mut layers = HashMap::new();
        for c in [&encoder, &heads].into_iter().flat_map(Graph::convs) {
            let layer = weights.layer(c)?;
            let dtype = if c.norm_relu { format.map() } else { DType::F32 };
            let tensor =
                |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(&device);
            let made = || {
                let weights = match blocks.remove(&c.name) {
                    Some(rows) => Weights::Blocks(QMatMul::from_qtensor(rows)?),
                    None => Weights::Plain(tensor(&layer.weights, &[c.kernel * c.kernel * c.inputs, c.outputs])?),
                };
                Ok(Layer { weights, bias: tensor(&layer.bias, &[c.outputs])? })
            };
            let made: Result<Layer> = { made }();
            layers.insert(c.name.clone(), made.map_err(|e| format!("layer {}: {e}", c.name))?);
        }
        Ok(Self { context: spec.context, format, encoder, heads, layers, device, free })
    }

    fn run(&self, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        walk(graph, inputs, |x, c| self.conv(x, c), composed::JOINS)
    }

    fn conv(&self, x: &Tensor, c: &Conv) -> Result<Tensor> {
        let Some(layer) = self.layers.get(&c.name) else { candle_core::bail!("layer {} is missing", c.name) };
        let (batch, height, width, _) = x.dims4()?;
        let y = match &layer.weights {
            Weights::Plain(weights) => columns(&x.to_dtype(weights.dtype())?, c.kernel, c.stride)?.matmul(weights)?,
            Weights::Blocks(rows) => {
                let x = x.pad_with_zeros(3, 0, q8_0::padded(c.inputs) - c.inputs)?;
                rows.forward(&columns(&x, c.kernel, c.stride)?)?
            }
        };
        let y = y.broadcast_add(&layer.bias)?;
        let y = if c.norm_relu { y.relu()? } else { y };
        y.reshape((batch, height.div_ceil(c.stride), width.div_ceil(c.stride), c.outputs))
    }

    fn upload(&self, values: &[f32], shape: (usize, usize, usize, usize)) -> Result<Tensor> {
        Tensor::from_slice(values, shape, &self.device)?.to_dtype(self.format.map())
    }

    fn encode_all(&self, slots: &[SlotInput]) -> Result<Vec<Features>> {
        let uploaded = slots.iter().map(|s| self.upload(&s.data, (1, s.height, s.width, 3))).collect::<Result<Vec<_>>>()?;
        let maps = self.run(&self.encoder, vec![Tensor::cat(&uploaded, 0)?])?;
        let levels = maps.iter().map(|m| download(m, slots.len())).collect::<Result<Vec<_>>>()?;
        let of = |(i, s): (usize, &SlotInput)| Features {
            size: (s.height, s.width),
            levels: levels.iter().map(|slots| slots[i].clone()).collect(),
        };
        Ok(slots.iter().enumerate().map(of).collect())
    }

    fn heads_all(&self, windows: &[Vec<Features>]) -> Result<Vec<Vec<Map>>> {
        let (h, w) = windows.first().and_then(|w| w.first()).map_or((0, 0), |f| f.size);
        let input = |level: usize| {
            let node = &self.heads.nodes[level];
            let shape = (1, h / node.stride, w / node.stride, node.channels / self.context);
            let of = |position: usize| {
                let slots = windows.iter().map(|w| self.upload(&w[position].levels[level], shape)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&slots, 0)
            };
            Tensor::cat(&(0..self.context).map(of).collect::<Result<Vec<_>>>()?, 3)
        };
        let inputs = (0..self.heads.outputs.len()).map(input).collect::<Result<Vec<_>>>()?;
        let outputs = self.run(&self.heads, inputs)?;
        let mut maps: Vec<Vec<Map>> = vec![Vec::new(); windows.len()];
        for y in &outputs {
            let (_, height, width, channels) = y.dims4()?;
            for (maps, data) in maps.iter_mut().zip(download(y, windows.len())?) {
                maps.push(Map { height, width, channels, data });
            }
        }
        Ok(maps)
    }

    /// Bytes that one slot of this size takes on the device at the worst moment, counted over both graphs: maps that are still to be read, and what a
    /// convolution needs beside them.
    #[must_use]
    pub fn slot_bytes(&self, (height, width): (usize, usize)) -> u64 {
        let peak = |graph: &Graph| {
            let cells = |node: &Node| (height / node.stride) * (width / node.stride);
            let map = |node: &Node| cells(node) * node.channels * VALUE_BYTES;
            let (last, mut live, mut most) = (graph.last_uses(), 0, 0);
            for (i, node) in graph.nodes.iter().enumerate() {
                let beside = match &node.op {
                    Op::Conv(c, x) => self.convolution_bytes(c, cells(&graph.nodes[*x]), cells(node)),
                    _ => map(node),
                };
                live += map(node);
                most = most.max(live + beside);
                live -= node.op.inputs().filter(|x| last[*x] == i).map(|x| map(&graph.nodes[x])).sum::<usize>();
            }
            most as u64
        };
        peak(&self.encoder).max(peak(&self.heads))
    }

    /// Bytes that a convolution takes beside its maps: the padded input; per output cell the taps, apart and side by side, and sum, biased sum and ReLU;
    /// with blocks the taps in int8, too.
    fn convolution_bytes(&self, c: &Conv, inputs: usize, outputs: usize) -> usize {
        let blocks = self.format == Format::Q8_0 && q8_0::suits(c);
        let channels = if blocks { q8_0::padded(c.inputs) } else { c.inputs };
        let depth = c.kernel * c.kernel * channels;
        let int8 = if blocks { depth.next_multiple_of(Q8_COLUMNS) / 128 * 144 } else { 0 };
        inputs * channels * VALUE_BYTES + outputs * (2 * depth * VALUE_BYTES + 3 * c.outputs * VALUE_BYTES + int8)
    }
}

/// The values of each of a map's slots.
fn download(map: &Tensor, slots: usize) -> Result<Vec<Vec<f32>>> {
    let values = map.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.chunks(values.len() / slots.max(1)).map(<[f32]>::to_vec).collect())
}

impl BatchNetwork for DeviceNet {
    fn context(&self) -> usize {
        self.context
    }

    fn quantization(&self) -> &'static str {
        self.format.name()
    }

    fn most(&self, size: (usize, usize)) -> usize {
        let budget = (self.free)().map_or(1, |free| free / MEMORY_SHARE / self.slot_bytes(size).max(1));
        usize::try_from(budget).unwrap_or(MOST_SLOTS).clamp(1, MOST_SLOTS)
    }

    fn encode(&self, slots: &[SlotInput]) -> std::result::Result<Vec<Features>, String> {
        self.encode_all(slots).map_err(|e| e.to_string())
    }

    fn heads(&self, windows: &[Vec<Features>]) -> std::result::Result<Vec<Vec<Map>>, String> {
        self.heads_all(windows).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::detect::conv::{self, Shape};

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    /// Against our own convolution, which is held to the definition.
    #[test]
    fn taps_side_by_side_are_the_convolution() {
        for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
            for (height, width) in [(8, 6), (7, 5), (1, 1)] {
                let shape = Shape { batch: 2, height, width, inputs: 3, outputs: 4, kernel, stride };
                let (x, w) = (wave(2 * height * width * 3, 0.37), wave(shape.depth() * 4, 0.73));
                let map = Tensor::from_slice(&x, (2, height, width, 3), &Device::Cpu).unwrap();
                let weights = Tensor::from_slice(&w, (shape.depth(), 4), &Device::Cpu).unwrap();
                let ours = columns(&map, kernel, stride).unwrap().matmul(&weights).unwrap();
                let ours = ours.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let expected = conv::forward(shape, &x, &w);
                assert_eq!(ours.len(), expected.len(), "{shape:?}");
                assert!(ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{shape:?}: {ours:?} {expected:?}");
            }
        }
    }

    #[test]
    fn a_batch_is_as_large_as_the_free_memory_allows() {
        let spec = NetworkSpec::cpu();
        let weights = crate::detect::train_net::TrainNet::new(&spec, &Device::Cpu, 3).and_then(|net| net.fold()).unwrap();
        let of = |format, free: Option<u64>| DeviceNet::new(&spec, &weights, format, Device::Cpu, Box::new(move || free)).unwrap();
        let with = |free| of(Format::F32, free);
        let slot = with(None).slot_bytes((512, 512));
        // The taps of the largest layers alone: 128 × 128 cells of nine times 32 channels, twice.
        let taps = 2 * 128 * 128 * 9 * 32 * 4;
        assert!((taps..2 * taps).contains(&slot), "{slot}");
        let blocks = of(Format::Q8_0, None).slot_bytes((512, 512));
        assert!((slot..2 * slot).contains(&blocks), "{blocks}");
        let most = |free: Option<u64>| with(free).most((512, 512));
        assert_eq!(most(Some(2 * slot * 3)), 3);
        assert_eq!(most(Some(0)), 1);
        assert_eq!(most(None), 1);
        assert_eq!(most(Some(1 << 40)), MOST_SLOTS);
        assert!(with(Some(2 * slot * 3)).most((384, 512)) == 4);
    }
}
