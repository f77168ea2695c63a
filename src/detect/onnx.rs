//! The network's graphs as ONNX (opset 13), the form tract runs. Maps are channel-first there; batch and size are free.

use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto, tensor_proto, type_proto,
};

use super::network::{Conv, Graph, Op};
use super::weights::FoldedWeights;

/// ONNX IR version of opset 13.
const IR_VERSION: i64 = 7;
const OPSET: i64 = 13;

/// Writes `graph` with its weights.
///
/// # Errors
/// A sentence naming the layer that does not fit.
pub fn write(name: &str, graph: &Graph, weights: &FoldedWeights) -> Result<Vec<u8>, String> {
    let mut nodes = Vec::new();
    let mut initializers = vec![floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0])];
    let mut inputs = Vec::new();
    let value = |i: usize| format!("v{i}");
    for (i, node) in graph.nodes.iter().enumerate() {
        match &node.op {
            Op::Input => inputs.push(map_info(&value(i), node.channels, inputs.len())),
            Op::Conv(c, x) => {
                let layer = weights.layer(c)?;
                initializers.push(floats(
                    &format!("{}.w", c.name),
                    &[c.outputs, c.inputs, c.kernel, c.kernel],
                    &channel_first(c, &layer.weights),
                ));
                initializers.push(floats(&format!("{}.b", c.name), &[c.outputs], &layer.bias));
                let sum = if c.norm_relu { format!("{}.sum", c.name) } else { value(i) };
                nodes.push(conv(c, &value(*x), &sum));
                if c.norm_relu {
                    nodes.push(operator("Relu", &[&sum], &value(i), Vec::new()));
                }
            }
            Op::Add(a, b) => nodes.push(operator("Add", &[&value(*a), &value(*b)], &value(i), Vec::new())),
            Op::Concat(a, b) => nodes.push(operator("Concat", &[&value(*a), &value(*b)], &value(i), vec![int("axis", 1)])),
            Op::Upsample(x) => nodes.push(upsample(&value(*x), &value(i))),
        }
    }
    let outputs = graph.outputs.iter().map(|o| map_info(&value(*o), graph.nodes[*o].channels, 0)).collect();
    Ok(model(name, nodes, initializers, inputs, outputs))
}

/// The file's bytes.
pub(super) fn model(
    name: &str,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
) -> Vec<u8> {
    let model = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: "lesionlab".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphProto { name: name.to_owned(), node, initializer, input, output, ..GraphProto::default() }),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// `[k, k, in, out]` → `[out, in, k, k]`.
pub(super) fn channel_first<T: Copy>(c: &Conv, weights: &[T]) -> Vec<T> {
    let mut out = Vec::with_capacity(weights.len());
    for o in 0..c.outputs {
        for i in 0..c.inputs {
            out.extend((0..c.kernel * c.kernel).map(|tap| weights[(tap * c.inputs + i) * c.outputs + o]));
        }
    }
    out
}

pub(super) fn conv(c: &Conv, input: &str, output: &str) -> NodeProto {
    operator("Conv", &[input, &format!("{}.w", c.name), &format!("{}.b", c.name)], output, conv_attributes(c))
}

pub(super) fn conv_attributes(c: &Conv) -> Vec<AttributeProto> {
    let (k, p, s) = (c.kernel as i64, (c.kernel / 2) as i64, c.stride as i64);
    vec![ints("kernel_shape", &[k, k]), ints("pads", &[p; 4]), ints("strides", &[s, s])]
}

/// Each cell twice in both directions; the graph needs the initializer `scales`.
pub(super) fn upsample(input: &str, output: &str) -> NodeProto {
    let attributes = vec![text("mode", "nearest"), text("coordinate_transformation_mode", "asymmetric"), text("nearest_mode", "floor")];
    operator("Resize", &[input, "", "scales"], output, attributes)
}

pub(super) fn operator(kind: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: kind.into(),
        name: format!("{kind}:{output}"),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind.into(), ..AttributeProto::default() }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, attribute_proto::AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, attribute_proto::AttributeType::Ints) }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: value.as_bytes().to_vec(), ..attribute(name, attribute_proto::AttributeType::String) }
}

pub(super) fn floats(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: tensor_proto::DataType::Float.into(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// `[n, channels, h<level>, w<level>]`.
pub(super) fn map_info(name: &str, channels: usize, level: usize) -> ValueInfoProto {
    let fixed = |v: usize| Dimension { value: Some(dimension::Value::DimValue(v as i64)), ..Dimension::default() };
    let free = |s: String| Dimension { value: Some(dimension::Value::DimParam(s)), ..Dimension::default() };
    let shape = TensorShapeProto { dim: vec![free("n".into()), fixed(channels), free(format!("h{level}")), free(format!("w{level}"))] };
    let tensor = type_proto::Tensor { elem_type: tensor_proto::DataType::Float.into(), shape: Some(shape) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
