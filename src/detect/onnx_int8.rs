//! The network's graphs as int8 ONNX: QLinearConv throughout, since tract runs QDQ graphs in f32. Weights are int8 with one scale an output channel, maps
//! are int8 with one scale and the zero point at -128 (so that a layer's ReLU is its clamp). Sums, upsampling and what stays f32 stand between
//! DequantizeLinear and QuantizeLinear; a concatenation stays int8 where both halves are of one range.

use tract_onnx::pb::{NodeProto, TensorProto, ValueInfoProto, tensor_proto};

use super::network::{Conv, Graph, Op};
use super::onnx::{channel_first, conv, conv_attributes, floats, int, map_info, model, operator, upsample};
use super::quantization::{Int8Layer, Quantization, ZERO_POINT, scale};
use super::weights::FoldedWeights;

/// Writes `graph` with its weights in int8.
///
/// # Errors
/// A sentence naming the layer or map that does not fit.
pub fn write(name: &str, graph: &Graph, weights: &FoldedWeights, quantization: &Quantization) -> Result<Vec<u8>, String> {
    let mut writer = Writer {
        graph,
        quantization,
        nodes: Vec::new(),
        initializers: vec![floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0]), int8s("zero", &[], &[ZERO_POINT])],
        forms: vec![Forms::default(); graph.nodes.len()],
    };
    let mut inputs: Vec<ValueInfoProto> = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let value = format!("v{i}");
        match &node.op {
            Op::Input => {
                inputs.push(map_info(&value, node.channels, inputs.len()));
                writer.forms[i].f32 = Some(value);
            }
            Op::Conv(c, x) => {
                let layer = weights.layer(c)?;
                if quantization.is_int8(c) {
                    let range = writer.range(*x)?;
                    let input = writer.int8(*x, range)?;
                    let layer = Int8Layer::new(layer, scale(range));
                    writer.int8_conv(i, c, &layer, &input, range)?;
                } else {
                    writer.initializers.push(floats(
                        &format!("{}.w", c.name),
                        &[c.outputs, c.inputs, c.kernel, c.kernel],
                        &channel_first(c, &layer.weights),
                    ));
                    writer.initializers.push(floats(&format!("{}.b", c.name), &[c.outputs], &layer.bias));
                    let sum = if c.norm_relu { format!("{}.sum", c.name) } else { value.clone() };
                    let input = writer.f32(*x)?;
                    writer.nodes.push(conv(c, &input, &sum));
                    if c.norm_relu {
                        writer.nodes.push(operator("Relu", &[&sum], &value, Vec::new()));
                    }
                    writer.forms[i].f32 = Some(value);
                }
            }
            Op::Add(a, b) => {
                let (a, b) = (writer.f32(*a)?, writer.f32(*b)?);
                writer.nodes.push(operator("Add", &[&a, &b], &value, Vec::new()));
                writer.forms[i].f32 = Some(value);
            }
            Op::Concat(a, b) => {
                let axis = vec![int("axis", 1)];
                let range = writer.range(i)?;
                let made = [*a, *b].map(|x| writer.forms[x].int8.clone().filter(|(_, r)| r.to_bits() == range.to_bits()));
                if let [Some((a, _)), Some((b, _))] = made {
                    writer.nodes.push(operator("Concat", &[&a, &b], &value, axis));
                    writer.forms[i].int8 = Some((value, range));
                } else {
                    let (a, b) = (writer.f32(*a)?, writer.f32(*b)?);
                    writer.nodes.push(operator("Concat", &[&a, &b], &value, axis));
                    writer.forms[i].f32 = Some(value);
                }
            }
            Op::Upsample(x) => {
                let x = writer.f32(*x)?;
                writer.nodes.push(upsample(&x, &value));
                writer.forms[i].f32 = Some(value);
            }
        }
    }
    let mut outputs = Vec::new();
    for o in &graph.outputs {
        outputs.push(map_info(&writer.f32(*o)?, graph.nodes[*o].channels, 0));
    }
    Ok(model(name, writer.nodes, writer.initializers, inputs, outputs))
}

/// The names under which a node's map is there by now.
#[derive(Clone, Default)]
struct Forms {
    f32: Option<String>,
    /// With its range.
    int8: Option<(String, f32)>,
}

struct Writer<'a> {
    graph: &'a Graph,
    quantization: &'a Quantization,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    forms: Vec<Forms>,
}

impl Writer<'_> {
    fn range(&self, i: usize) -> Result<f32, String> {
        self.quantization.range(self.graph, i).ok_or_else(|| format!("map {i} has no range"))
    }

    /// The map of node `i` in f32.
    fn f32(&mut self, i: usize) -> Result<String, String> {
        if let Some(name) = &self.forms[i].f32 {
            return Ok(name.clone());
        }
        let (int8, range) = self.forms[i].int8.clone().ok_or_else(|| format!("map {i} is read before it is there"))?;
        let (name, step) = (format!("v{i}.f32"), format!("v{i}.f32.scale"));
        self.initializers.push(floats(&step, &[], &[scale(range)]));
        self.nodes.push(operator("DequantizeLinear", &[&int8, &step, "zero"], &name, Vec::new()));
        self.forms[i].f32 = Some(name.clone());
        Ok(name)
    }

    /// The map of node `i` in int8 of this range.
    fn int8(&mut self, i: usize, range: f32) -> Result<String, String> {
        if let Some((name, _)) = self.forms[i].int8.as_ref().filter(|(_, r)| r.to_bits() == range.to_bits()) {
            return Ok(name.clone());
        }
        let from = self.f32(i)?;
        let (name, step) = (format!("v{i}.int8"), format!("v{i}.int8.scale"));
        self.initializers.push(floats(&step, &[], &[scale(range)]));
        self.nodes.push(operator("QuantizeLinear", &[&from, &step, "zero"], &name, Vec::new()));
        self.forms[i].int8 = Some((name.clone(), range));
        Ok(name)
    }

    fn int8_conv(&mut self, i: usize, c: &Conv, layer: &Int8Layer, input: &str, input_range: f32) -> Result<(), String> {
        let (value, range) = (format!("v{i}"), self.range(i)?);
        let part = |what: &str| format!("{}.{what}", c.name);
        self.initializers.extend([
            floats(&part("x"), &[], &[scale(input_range)]),
            int8s(&part("w"), &[c.outputs, c.inputs, c.kernel, c.kernel], &channel_first(c, &layer.weights)),
            floats(&part("ws"), &[c.outputs], &layer.scales),
            int8s(&part("wz"), &[c.outputs], &vec![0; c.outputs]),
            floats(&part("y"), &[], &[scale(range)]),
            TensorProto {
                name: part("b"),
                dims: vec![c.outputs as i64],
                data_type: tensor_proto::DataType::Int32.into(),
                raw_data: layer.bias.iter().flat_map(|v| v.to_le_bytes()).collect(),
                ..TensorProto::default()
            },
        ]);
        let names = [part("x"), part("w"), part("ws"), part("wz"), part("y"), part("b")];
        let [x, w, ws, wz, y, b] = names.each_ref().map(String::as_str);
        self.nodes.push(operator("QLinearConv", &[input, x, "zero", w, ws, wz, y, "zero", b], &value, conv_attributes(c)));
        self.forms[i].int8 = Some((value, range));
        Ok(())
    }
}

fn int8s(name: &str, dims: &[usize], values: &[i8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: tensor_proto::DataType::Int8.into(),
        raw_data: values.iter().map(|v| v.cast_unsigned()).collect(),
        ..TensorProto::default()
    }
}
