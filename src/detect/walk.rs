//! Going through a graph of operators with candle tensors: the same way for every engine on candle, which brings its own operators.

use candle_core::{Error, Result, Tensor};

use super::network::{Conv, Graph, Op};

/// The operators of a graph that have no weights.
#[derive(Debug, Clone, Copy)]
pub struct Joins {
    /// Sum of two maps of one shape.
    pub add: fn(&Tensor, &Tensor) -> Result<Tensor>,
    /// Every cell twice in both directions.
    pub upsample: fn(&Tensor) -> Result<Tensor>,
}

/// The maps of the graph's outputs. A map is let go at its last use: the next then lies where it lay, on a processor still in the cache.
///
/// # Errors
/// candle's, or an operator's; fewer inputs than the graph has.
pub fn walk(graph: &Graph, inputs: Vec<Tensor>, conv: impl Fn(&Tensor, &Conv) -> Result<Tensor>, joins: Joins) -> Result<Vec<Tensor>> {
    let last = graph.last_uses();
    let mut inputs = inputs.into_iter();
    let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(graph.nodes.len());
    for (i, node) in graph.nodes.iter().enumerate() {
        let of = |x: usize| maps[x].as_ref().ok_or_else(|| Error::Msg(format!("map {x} was let go too early")));
        let made = match &node.op {
            Op::Input => inputs.next().ok_or_else(|| Error::Msg("too few inputs".into()))?,
            Op::Conv(c, x) => conv(of(*x)?, c)?,
            Op::Add(a, b) => (joins.add)(of(*a)?, of(*b)?)?,
            Op::Concat(a, b) => Tensor::cat(&[of(*a)?, of(*b)?], 3)?,
            Op::Upsample(x) => (joins.upsample)(of(*x)?)?,
        };
        maps.push(Some(made));
        node.op.inputs().filter(|x| last[*x] == i).for_each(|x| maps[x] = None);
    }
    let output = |o: &usize| maps[*o].clone().ok_or_else(|| Error::Msg("an output was let go".into()));
    graph.outputs.iter().map(output).collect()
}
