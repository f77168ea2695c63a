//! The network, described once: [`NetworkSpec`] → two operator graphs that are read by training, by candle inference and by the ONNX writer.
//!
//! "Cached 2.5-D": the *encoder* graph turns one slot into neck maps at strides 4, 8 and 16; the *heads* graph fuses the maps of `context`
//! neighbouring slots and predicts [`HEAD_CHANNELS`] values a cell. Only plain 3×3 and 1×1 convolutions, ReLU, addition, concatenation and nearest
//! upsampling: all that is fast in both engines. A stride-32 stage widens the receptive field and is added back top-down.

use serde::{Deserialize, Serialize};

/// Strides of the three levels, in slot pixels.
pub const STRIDES: [usize; 3] = [4, 8, 16];
/// Values a cell: objectness, quality, l, t, r, b, eight types, log long and short axis, sin 2θ, cos 2θ.
pub const HEAD_CHANNELS: usize = 18;

/// Sizes of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Input channels (windows).
    pub windows: usize,
    /// Slots whose maps the heads fuse; odd.
    pub context: usize,
    /// Channels at strides 2, 4, 8, 16 and 32.
    pub widths: [usize; 5],
    /// Residual blocks at strides 4, 8, 16 and 32.
    pub blocks: [usize; 4],
    /// Neck channels at strides 4, 8 and 16.
    pub neck: [usize; 3],
    /// 3×3 convolutions of the head at strides 4, 8 and 16.
    pub head: [usize; 3],
}

impl NetworkSpec {
    /// The net for CPUs: about 2.1 GMAC a 512 × 512 slot, 1 M parameters.
    #[must_use]
    pub fn cpu() -> Self {
        Self { windows: 3, context: 3, widths: [16, 32, 64, 128, 128], blocks: [1, 2, 2, 2], neck: [32, 64, 64], head: [1, 2, 2] }
    }

    /// A few thousand parameters, for tests of everything round the network.
    #[must_use]
    pub fn tiny() -> Self {
        Self { windows: 3, context: 3, widths: [4, 8, 8, 8, 8], blocks: [0, 0, 0, 0], neck: [8, 8, 8], head: [0, 0, 0] }
    }

    /// Why this spec describes no network, if so.
    ///
    /// # Errors
    /// A sentence with the offending value.
    pub fn check(&self) -> Result<(), String> {
        const MOST_CHANNELS: usize = 1024; // a larger number is a damaged file, not a net for this board
        const MOST_BLOCKS: usize = 32;
        if self.windows != 3 {
            return Err(format!("windows is {}: three are supported", self.windows));
        }
        if self.context.is_multiple_of(2) || self.context > 15 {
            return Err(format!("context is {}: an odd number up to 15 is needed", self.context));
        }
        if let Some(c) = self.widths.iter().chain(&self.neck).find(|c| **c == 0 || **c > MOST_CHANNELS) {
            return Err(format!("a layer has {c} channels: 1 to {MOST_CHANNELS} are supported"));
        }
        if let Some(n) = self.blocks.iter().chain(&self.head).find(|n| **n > MOST_BLOCKS) {
            return Err(format!("a stage has {n} blocks: up to {MOST_BLOCKS} are supported"));
        }
        Ok(())
    }

    /// One slot `[3, h, w]` → neck maps at strides 4, 8, 16.
    #[must_use]
    pub fn encoder(&self) -> Graph {
        let mut g = Builder::default();
        let [w2, w4, w8, w16, w32] = self.widths;
        let input = g.input(self.windows, 1);
        let stem = g.conv("stem", input, 3, 2, w2);
        let c4 = g.conv("down4", stem, 3, 2, w4);
        let c4 = g.residuals("stage4", c4, self.blocks[0]);
        let c8 = g.conv("down8", c4, 3, 2, w8);
        let c8 = g.partial("stage8", c8, self.blocks[1]);
        let c16 = g.conv("down16", c8, 3, 2, w16);
        let c16 = g.partial("stage16", c16, self.blocks[2]);
        let c32 = g.conv("down32", c16, 3, 2, w32);
        let c32 = g.partial("stage32", c32, self.blocks[3]);
        let [n4, n8, n16] = self.neck;
        let top = g.conv("top32", c32, 1, 1, n16);
        let p16 = g.merge("neck16", c16, top, n16);
        let p8 = g.merge("neck8", c8, p16, n8);
        let p4 = g.merge("neck4", c4, p8, n4);
        g.finish(vec![p4, p8, p16])
    }

    /// Per level the neck maps of `context` slots, concatenated `[context · neck, h, w]`, oldest (lowest z) first → `[18, h, w]`.
    #[must_use]
    pub fn heads(&self) -> Graph {
        let mut g = Builder::default();
        let inputs: Vec<usize> = self.neck.iter().zip(STRIDES).map(|(n, stride)| g.input(n * self.context, stride)).collect();
        let mut outputs = Vec::new();
        for (level, input) in inputs.into_iter().enumerate() {
            let (stride, width) = (STRIDES[level], self.neck[level]);
            let mut x = g.conv(&format!("fuse{stride}"), input, 1, 1, width);
            for i in 0..self.head[level] {
                x = g.conv(&format!("head{stride}.{i}"), x, 3, 1, width);
            }
            outputs.push(g.output(&format!("out{stride}"), x, HEAD_CHANNELS));
        }
        g.finish(outputs)
    }

    /// Multiply-accumulates of one slot of `height` × `width`, encoder and heads.
    #[must_use]
    pub fn macs(&self, height: usize, width: usize) -> usize {
        self.encoder().macs(height, width) + self.heads().macs(height, width)
    }

    /// Trainable weights and biases after folding.
    #[must_use]
    pub fn parameters(&self) -> usize {
        [self.encoder(), self.heads()].iter().flat_map(Graph::convs).map(|c| c.kernel * c.kernel * c.inputs * c.outputs + c.outputs).sum()
    }
}

/// One convolution, "same" padding (`kernel / 2`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv {
    /// Unique over both graphs.
    pub name: String,
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Followed by batch norm (in training) and ReLU; the last layers are neither.
    pub norm_relu: bool,
}

/// One operator; indices name earlier nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The graph's next input.
    Input,
    /// Convolution.
    Conv(Conv, usize),
    /// Sum of two maps of one shape.
    Add(usize, usize),
    /// Channels of two maps, one after the other.
    Concat(usize, usize),
    /// Each cell twice in both directions.
    Upsample(usize),
}

impl Op {
    /// The nodes it reads.
    pub fn inputs(&self) -> impl Iterator<Item = usize> {
        let (a, b) = match self {
            Self::Input => (None, None),
            Self::Conv(_, x) | Self::Upsample(x) => (Some(*x), None),
            Self::Add(a, b) | Self::Concat(a, b) => (Some(*a), Some(*b)),
        };
        a.into_iter().chain(b)
    }
}

/// A node with the shape facts every reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Its channels.
    pub channels: usize,
    /// Slot pixels a cell.
    pub stride: usize,
}

/// Operators in an order in which each comes after what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The operators.
    pub nodes: Vec<Node>,
    /// Nodes whose maps are the result, finest level first.
    pub outputs: Vec<usize>,
}

impl Graph {
    /// All convolutions, in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.nodes.iter().filter_map(|n| if let Op::Conv(c, _) = &n.op { Some(c) } else { None })
    }

    /// For each node the last one that reads it; `usize::MAX` for outputs.
    #[must_use]
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            node.op.inputs().for_each(|x| last[x] = i);
        }
        self.outputs.iter().for_each(|o| last[*o] = usize::MAX);
        last
    }

    fn macs(&self, height: usize, width: usize) -> usize {
        self.nodes
            .iter()
            .map(|n| match &n.op {
                Op::Conv(c, _) => (height / n.stride) * (width / n.stride) * c.kernel * c.kernel * c.inputs * c.outputs,
                _ => 0,
            })
            .sum()
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    fn push(&mut self, op: Op, channels: usize, stride: usize) -> usize {
        self.nodes.push(Node { op, channels, stride });
        self.nodes.len() - 1
    }

    fn input(&mut self, channels: usize, stride: usize) -> usize {
        self.push(Op::Input, channels, stride)
    }

    fn layer(&mut self, name: &str, x: usize, kernel: usize, stride: usize, outputs: usize, norm_relu: bool) -> usize {
        let (inputs, base) = (self.nodes[x].channels, self.nodes[x].stride);
        self.push(Op::Conv(Conv { name: name.to_owned(), kernel, stride, inputs, outputs, norm_relu }, x), outputs, base * stride)
    }

    fn conv(&mut self, name: &str, x: usize, kernel: usize, stride: usize, outputs: usize) -> usize {
        self.layer(name, x, kernel, stride, outputs, true)
    }

    fn output(&mut self, name: &str, x: usize, outputs: usize) -> usize {
        self.layer(name, x, 1, 1, outputs, false)
    }

    /// x + f(f(x)), the sum after the last ReLU: no activation stands on the skip path.
    fn residuals(&mut self, name: &str, mut x: usize, count: usize) -> usize {
        let (channels, stride) = (self.nodes[x].channels, self.nodes[x].stride);
        for i in 0..count {
            let a = self.conv(&format!("{name}.{i}.a"), x, 3, 1, channels);
            let b = self.conv(&format!("{name}.{i}.b"), a, 3, 1, channels);
            x = self.push(Op::Add(x, b), channels, stride);
        }
        x
    }

    /// Cross-stage partial: half of the channels through the residual blocks, half past them.
    fn partial(&mut self, name: &str, x: usize, count: usize) -> usize {
        if count == 0 {
            return x;
        }
        let (channels, stride) = (self.nodes[x].channels, self.nodes[x].stride);
        let past = self.conv(&format!("{name}.past"), x, 1, 1, channels / 2);
        let through = self.conv(&format!("{name}.through"), x, 1, 1, channels / 2);
        let through = self.residuals(name, through, count);
        let both = self.push(Op::Concat(through, past), channels / 2 * 2, stride);
        self.conv(&format!("{name}.join"), both, 1, 1, channels)
    }

    /// Lateral 1×1 + upsampled coarser level, then 3×3.
    fn merge(&mut self, name: &str, lateral: usize, coarser: usize, channels: usize) -> usize {
        let stride = self.nodes[lateral].stride;
        let coarser =
            if self.nodes[coarser].channels == channels { coarser } else { self.conv(&format!("{name}.narrow"), coarser, 1, 1, channels) };
        let lateral = self.conv(&format!("{name}.lateral"), lateral, 1, 1, channels);
        let up = self.push(Op::Upsample(coarser), channels, stride);
        let sum = self.push(Op::Add(lateral, up), channels, stride);
        self.conv(&format!("{name}.smooth"), sum, 3, 1, channels)
    }

    fn finish(self, outputs: Vec<usize>) -> Graph {
        Graph { nodes: self.nodes, outputs }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_net_keeps_its_budget() {
        let spec = NetworkSpec::cpu();
        let (macs, parameters) = (spec.macs(512, 512), spec.parameters());
        assert!((1_900_000_000..2_300_000_000).contains(&macs), "{macs}");
        assert!((600_000..1_200_000).contains(&parameters), "{parameters}");
    }

    #[test]
    fn names_are_unique_and_shapes_agree() {
        for spec in [NetworkSpec::cpu(), NetworkSpec::tiny()] {
            spec.check().unwrap();
            let graphs = [spec.encoder(), spec.heads()];
            let mut names: Vec<_> = graphs.iter().flat_map(Graph::convs).map(|c| c.name.clone()).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
            for graph in &graphs {
                assert_eq!(graph.outputs.iter().map(|o| graph.nodes[*o].stride).collect::<Vec<_>>(), STRIDES);
                for node in &graph.nodes {
                    if let Op::Add(a, b) = node.op {
                        assert_eq!((graph.nodes[a].channels, graph.nodes[a].stride), (graph.nodes[b].channels, graph.nodes[a].stride));
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_spec_is_refused() {
        assert!(NetworkSpec { context: 4, ..NetworkSpec::cpu() }.check().unwrap_err().contains("context is 4"));
        assert!(NetworkSpec { neck: [32, 1 << 30, 64], ..NetworkSpec::cpu() }.check().is_err());
    }
}
