//! The network's graphs computed in f32 with every map in view: to see ranges, and to see what quantization does to each layer.

use std::collections::BTreeMap;

use crate::detect::conv::{self, Shape};
use crate::detect::network::{Conv, Graph, Op};
use crate::detect::ops::{self, upsampled};
use crate::detect::q8_0::{self, Q8Layer};
use crate::detect::quantization::{Int8Layer, Quantization, scale, through_int8};
use crate::detect::weights::{FoldedWeights, Layer};
use crate::detect::{Map, SlotInput};

/// How convolutions are computed.
pub enum Arithmetic<'a> {
    /// As they are.
    F32,
    /// As an int8 engine does, but in f32: the same values up to the order of sums.
    Int8(&'a Quantization),
    /// As the Q8_0 engine does.
    Q8_0,
}

/// What a slot is to the encoder.
#[must_use]
pub fn slot_map(slot: &SlotInput) -> Map {
    Map { height: slot.height, width: slot.width, channels: 3, data: slot.data.clone() }
}

/// What the heads read: per level the maps of all slots of a window side by side. `features` are those slots' encoder outputs.
#[must_use]
pub fn beside(features: &[Vec<&Map>]) -> Vec<Map> {
    let levels = features.first().map_or(0, Vec::len);
    (0..levels)
        .map(|level| {
            let (first, c) = (features[0][level], features[0][level].channels);
            let maps: Vec<&[f32]> = features.iter().map(|slot| slot[level].data.as_slice()).collect();
            let data = ops::beside(&maps, c);
            Map { height: first.height, width: first.width, channels: c * features.len(), data }
        })
        .collect()
}

/// One convolution on `x`; with int8 the input is taken through its range first and the output through its own.
///
/// # Errors
/// A sentence naming the layer or map that does not fit.
pub fn convolve(graph: &Graph, i: usize, weights: &FoldedWeights, arithmetic: &Arithmetic<'_>, x: &Map) -> Result<Map, String> {
    let Op::Conv(c, from) = &graph.nodes[i].op else { return Err(format!("node {i} is no convolution")) };
    let layer = weights.layer(c)?;
    let shape =
        Shape { batch: 1, height: x.height, width: x.width, inputs: c.inputs, outputs: c.outputs, kernel: c.kernel, stride: c.stride };
    let plain = |x: &[f32], layer: &Layer| conv::Layer::new(c, layer).forward(shape, x);
    let data = match arithmetic {
        Arithmetic::Int8(q) if q.is_int8(c) => {
            let range = |i: usize| q.range(graph, i).ok_or_else(|| format!("map {i} has no range"));
            let (range_in, range_out) = (range(*from)?, range(i)?);
            let mut x = x.data.clone();
            through_int8(&mut x, range_in);
            let mut y = plain(&x, &int8_as_f32(layer, range_in));
            through_int8(&mut y, range_out);
            y
        }
        Arithmetic::Q8_0 if q8_0::suits(c) => Q8Layer::new(c, layer).forward(shape, &x.data),
        _ => plain(&x.data, layer),
    };
    Ok(Map { height: shape.out_height(), width: shape.out_width(), channels: c.outputs, data })
}

fn int8_as_f32(layer: &Layer, range_in: f32) -> Layer {
    let int8 = Int8Layer::new(layer, scale(range_in));
    let bias = int8.bias.iter().zip(&int8.scales).map(|(b, s)| *b as f32 * s * scale(range_in)).collect();
    Layer { weights: int8.weights_f32(), bias }
}

/// The map of node `i`, which is no input, out of the maps before it.
fn node<'a>(
    graph: &Graph,
    i: usize,
    weights: &FoldedWeights,
    arithmetic: &Arithmetic<'_>,
    map: impl Fn(usize) -> &'a Map,
) -> Result<Map, String> {
    Ok(match &graph.nodes[i].op {
        Op::Input => return Err(format!("node {i} is an input")),
        Op::Conv(_, x) => convolve(graph, i, weights, arithmetic, map(*x))?,
        Op::Add(a, b) => {
            let (a, b) = (map(*a), map(*b));
            Map { data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect(), ..*a }
        }
        Op::Concat(a, b) => {
            let (a, b) = (map(*a), map(*b));
            let cells = a.data.chunks_exact(a.channels).zip(b.data.chunks_exact(b.channels));
            Map { data: cells.flat_map(|(a, b)| [a, b].concat()).collect(), channels: a.channels + b.channels, ..*a }
        }
        Op::Upsample(x) => {
            let x = map(*x);
            Map { data: upsampled(&x.data, x.width, x.channels), height: 2 * x.height, width: 2 * x.width, channels: x.channels }
        }
    })
}

/// Every map of `graph`, in the order of its nodes.
///
/// # Errors
/// As [`convolve`]; too few inputs.
pub fn maps(graph: &Graph, weights: &FoldedWeights, arithmetic: &Arithmetic<'_>, inputs: Vec<Map>) -> Result<Vec<Map>, String> {
    let mut inputs = inputs.into_iter();
    let mut maps: Vec<Map> = Vec::with_capacity(graph.nodes.len());
    for (i, n) in graph.nodes.iter().enumerate() {
        let map = match n.op {
            Op::Input => inputs.next().ok_or("too few inputs")?,
            _ => node(graph, i, weights, arithmetic, |x| &maps[x])?,
        };
        maps.push(map);
    }
    Ok(maps)
}

/// The maps that change where those of `replaced` take the place of `exact`'s, in f32 from there on.
///
/// # Errors
/// As [`convolve`].
pub fn changed(
    graph: &Graph,
    weights: &FoldedWeights,
    exact: &[Map],
    mut replaced: BTreeMap<usize, Map>,
) -> Result<BTreeMap<usize, Map>, String> {
    for (i, n) in graph.nodes.iter().enumerate() {
        if !replaced.contains_key(&i) && n.op.inputs().any(|x| replaced.contains_key(&x)) {
            let map = node(graph, i, weights, &Arithmetic::F32, |x| replaced.get(&x).unwrap_or(&exact[x]))?;
            replaced.insert(i, map);
        }
    }
    Ok(replaced)
}

/// The convolutions of `graph` with their node numbers.
pub fn convs(graph: &Graph) -> impl Iterator<Item = (usize, &Conv, usize)> {
    graph.nodes.iter().enumerate().filter_map(|(i, n)| if let Op::Conv(c, x) = &n.op { Some((i, c, *x)) } else { None })
}
