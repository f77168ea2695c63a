//! `detector.q8_0.gguf`: the weights as GGUF (version 2, as candle writes it), Q8_0 where [`q8_0::suits`] says so and F32 elsewhere.
//!
//! `NAME.weight` is `[outputs, depth]`, padded tap by tap (a layer in F32: `[outputs, kernel · kernel · inputs]`); `NAME.bias` is F32. A file that holds
//! anything else is refused: another quantization than the table's would run, and be wrong by an amount that nobody measured.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use candle_core::quantized::gguf_file::{Content, Value, write as write_gguf};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::network::{Conv, Graph, NetworkSpec};
use super::q8_0;
use super::weights::{FoldedWeights, Layer};

/// `general.architecture` of our files.
const ARCHITECTURE: &str = "lesionwatch";

fn convs(spec: &NetworkSpec) -> Vec<Conv> {
    [spec.encoder(), spec.heads()].iter().flat_map(Graph::convs).cloned().collect()
}

/// Rows and columns of a layer's weights in the file, and their format.
fn layout(c: &Conv) -> (usize, usize, GgmlDType) {
    if q8_0::suits(c) {
        (c.outputs, q8_0::depth(c.kernel, c.inputs), GgmlDType::Q8_0)
    } else {
        (c.outputs, c.kernel * c.kernel * c.inputs, GgmlDType::F32)
    }
}

fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    (0..values.len()).map(|i| values[(i % rows) * columns + i / rows]).collect()
}

/// The bytes of the file; the same weights give the same bytes.
///
/// # Errors
/// A sentence naming the layer that does not fit the spec.
pub fn write(spec: &NetworkSpec, weights: &FoldedWeights) -> Result<Vec<u8>, String> {
    let mut tensors: BTreeMap<String, QTensor> = BTreeMap::new();
    for c in convs(spec) {
        let layer = weights.layer(&c)?;
        let (rows, columns, format) = layout(&c);
        let values = if format == GgmlDType::Q8_0 { q8_0::rows(&c, &layer.weights) } else { transposed(&layer.weights, columns) };
        let quantized = |values: Vec<f32>, shape: &[usize], format| {
            Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| QTensor::quantize(&t, format))
        };
        let fault = |e: candle_core::Error| format!("layer {}: {e}", c.name);
        tensors.insert(format!("{}.weight", c.name), quantized(values, &[rows, columns], format).map_err(fault)?);
        tensors.insert(format!("{}.bias", c.name), quantized(layer.bias.clone(), &[c.outputs], GgmlDType::F32).map_err(fault)?);
    }
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let architecture = Value::String(ARCHITECTURE.into());
    let mut out = Cursor::new(Vec::new());
    write_gguf(&mut out, &[("general.architecture", &architecture)], &named).map_err(|e| e.to_string())?;
    Ok(out.into_inner())
}

/// The weights that a file stands for, in f32. Quantizing them again gives the very same blocks.
///
/// # Errors
/// A sentence naming what is wrong: no GGUF, a tensor that is missing, of another format or shape, or not finite.
pub fn read(bytes: &[u8], spec: &NetworkSpec) -> Result<FoldedWeights, String> {
    let mut source = Cursor::new(bytes);
    let content = Content::read(&mut source).map_err(|e| format!("no GGUF file: {e}"))?;
    match content.metadata.get("general.architecture").and_then(|v| v.to_string().ok()) {
        Some(a) if a == ARCHITECTURE => {}
        other => return Err(format!("general.architecture is {other:?}, {ARCHITECTURE:?} is needed")),
    }
    let mut weights = FoldedWeights::default();
    let convs = convs(spec);
    for c in &convs {
        let mut tensor = |part: &str, shape: &[usize], format: GgmlDType| -> Result<Vec<f32>, String> {
            let name = format!("{}.{part}", c.name);
            let info = content.tensor_infos.get(&name).ok_or_else(|| format!("tensor {name} is missing"))?;
            if info.ggml_dtype != format || info.shape.dims() != shape {
                let found = (info.ggml_dtype, info.shape.dims());
                return Err(format!("tensor {name} is {:?} {:?}, {format:?} {shape:?} is needed", found.0, found.1));
            }
            let values = content
                .tensor(&mut source, &name, &Device::Cpu)
                .and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
                .map_err(|e| format!("tensor {name}: {e}"))?;
            match values.iter().find(|v| !v.is_finite()) {
                Some(v) => Err(format!("tensor {name} holds {v}")),
                None => Ok(values),
            }
        };
        let (rows, columns, format) = layout(c);
        let values = tensor("weight", &[rows, columns], format)?;
        let values = if format == GgmlDType::Q8_0 { q8_0::from_rows(c, &values) } else { transposed(&values, rows) };
        weights.0.insert(c.name.clone(), Layer { weights: values, bias: tensor("bias", &[c.outputs], GgmlDType::F32)? });
    }
    match content.tensor_infos.len() {
        n if n == 2 * convs.len() => Ok(weights),
        n => Err(format!("{n} tensors, {} are needed", 2 * convs.len())),
    }
}

/// The blocks of the layers that are held in Q8_0, on `device`, by layer name: those that [`write`] puts into a file. They are read as from one, since
/// candle clears the memory behind a tensor that it reads, and its kernels read beyond the last row.
///
/// # Errors
/// As [`write`]; what the device says.
pub fn blocks(spec: &NetworkSpec, weights: &FoldedWeights, device: &Device) -> Result<HashMap<String, QTensor>, String> {
    let mut source = Cursor::new(write(spec, weights)?);
    let content = Content::read(&mut source).map_err(|e| e.to_string())?;
    let of = |c: &Conv| {
        let blocks = content.tensor(&mut source, &format!("{}.weight", c.name), device).map_err(|e| format!("layer {}: {e}", c.name))?;
        Ok((c.name.clone(), blocks))
    };
    convs(spec).iter().filter(|c| q8_0::suits(c)).map(of).collect()
}

/// What can go wrong with a file, made on purpose: `weights` in another format than the table's.
///
/// # Errors
/// As [`write`].
#[cfg(test)]
fn write_as(spec: &NetworkSpec, weights: &FoldedWeights, other: GgmlDType) -> Result<Vec<u8>, String> {
    let bytes = write(spec, weights)?;
    let mut source = Cursor::new(bytes.as_slice());
    let content = Content::read(&mut source).map_err(|e| e.to_string())?;
    let mut tensors = Vec::new();
    for name in content.tensor_infos.keys() {
        let t = content.tensor(&mut source, name, &Device::Cpu).map_err(|e| e.to_string())?;
        let t = if t.dtype() == GgmlDType::Q8_0 {
            QTensor::quantize(&t.dequantize(&Device::Cpu).map_err(|e| e.to_string())?, other).map_err(|e| e.to_string())?
        } else {
            t
        };
        tensors.push((name.clone(), t));
    }
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let architecture = Value::String(ARCHITECTURE.into());
    let mut out = Cursor::new(Vec::new());
    write_gguf(&mut out, &[("general.architecture", &architecture)], &named).map_err(|e| e.to_string())?;
    Ok(out.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::detect::q8_0::Q8Layer;
    use crate::detect::train_net::TrainNet;

    fn tiny() -> (NetworkSpec, FoldedWeights) {
        let spec = NetworkSpec::tiny();
        let weights = TrainNet::new(&spec, &Device::Cpu, 3).and_then(|net| net.fold()).unwrap();
        (spec, weights)
    }

    #[test]
    fn a_file_holds_the_blocks_that_the_master_gives() {
        let (spec, weights) = tiny();
        let bytes = write(&spec, &weights).unwrap();
        assert_eq!(bytes, write(&spec, &weights).unwrap());
        let back = read(&bytes, &spec).unwrap();
        let mut quantized = 0;
        for c in convs(&spec) {
            let (master, back) = (weights.layer(&c).unwrap(), back.layer(&c).unwrap());
            assert_eq!(master.bias, back.bias);
            if q8_0::suits(&c) {
                quantized += 1;
                let of = |layer: &Layer| Q8Layer::new(&c, layer).weights_f32(&c);
                assert_eq!(of(master), of(back), "{}", c.name);
            } else {
                assert_eq!(master.weights, back.weights, "{}", c.name);
            }
        }
        assert!(quantized > 5);
    }

    #[test]
    fn what_is_not_such_a_file_is_refused_by_tensor_and_reason() {
        let (spec, mut weights) = tiny();
        let good = write(&spec, &weights).unwrap();
        let refused = |bytes: &[u8]| read(bytes, &spec).unwrap_err();
        assert!(refused(b"GGUF").contains("no GGUF file"), "{}", refused(b"GGUF"));
        let halved = refused(&good[..good.len() / 2]);
        assert!(halved.contains("tensor"), "{halved}");
        for other in [GgmlDType::Q4_0, GgmlDType::F16] {
            let text = refused(&write_as(&spec, &weights, other).unwrap());
            assert!(text.contains("is needed") && text.contains(&format!("{other:?}")), "{text}");
        }
        let wider = NetworkSpec { widths: [8; 5], ..spec.clone() };
        assert!(read(&good, &wider).unwrap_err().contains("is needed"));
        weights.0.get_mut("stem").unwrap().weights[3] = f32::NAN;
        let text = write(&spec, &weights).unwrap_err();
        assert!(text.contains("stem"), "{text}");
    }
}
