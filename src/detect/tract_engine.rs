//! The network on tract: two ONNX graphs, optimised once for each slot size.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tract_linalg::MmmDispatch;
use tract_linalg::mmm::Query;
use tract_onnx::prelude::*;

use super::network::{NetworkSpec, STRIDES};
use super::{Engine, EngineError, Features, Map, SlotInput};

const NAME: &str = "tract";

type Plan = Arc<TypedRunnableModel>;

/// Encoder and heads for one slot size.
#[derive(Clone)]
struct Plans {
    encoder: Plan,
    heads: Plan,
}

struct Network {
    spec: NetworkSpec,
    quantization: &'static str,
    encoder: InferenceModel,
    heads: InferenceModel,
    /// By rows and columns. Few sizes occur: two heights of one width.
    plans: Mutex<HashMap<(usize, usize), Plans>>,
}

/// tract on the CPU.
#[derive(Clone)]
pub struct TractEngine(Arc<Network>);

fn failed(e: impl std::fmt::Display) -> EngineError {
    EngineError::Failed { engine: NAME, reason: e.to_string() }
}

/// A matrix product as the network's convolutions are, to ask which kernel does it: rows (channels), depth, columns (cells).
const PRODUCT: [usize; 3] = [64, 576, 4096];

/// What tract must not use of this processor. Its int8 kernel on Intel's tiles (`avx512amx_mmm_i32_16x16`, 0.23.9) reads past its operands on a Xeon that has
/// them, and the process dies of it; without it tract takes the vectors (VNNI). It has to be said before tract first looks at the processor.
fn restrain() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if cfg!(target_arch = "x86_64") {
            let knob = &tract_linalg::knobs::TRACT_CPU_ISA;
            let asked = knob.get().into_iter().chain(["-amx-int8".to_owned()]);
            knob.set(Some(asked.collect::<Vec<_>>().join(",")));
        }
    });
}

/// The matrix kernels that tract picks on this processor, for `f32` and for `int8` operands, by tract's names.
/// `None` where there is none.
#[must_use]
pub fn kernels() -> [(&'static str, Option<String>); 2] {
    restrain();
    let [m, k, n] = PRODUCT.map(Some);
    // An integer accumulator stands for int8 operands.
    [("f32", DatumType::F32), ("int8", DatumType::I32)].map(|(operands, accumulator)| {
        let picked = MmmDispatch::native().pick(&Query::plain(accumulator, m, k, n));
        (operands, picked.map(|(kernel, _, _)| kernel.name().to_owned()))
    })
}

impl TractEngine {
    /// Parses the two graphs.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where one is no ONNX model.
    pub fn new(spec: &NetworkSpec, encoder: &[u8], heads: &[u8]) -> Result<Self, EngineError> {
        Self::with(spec, encoder, heads, "f32")
    }

    /// As [`TractEngine::new`], of graphs with int8 convolutions.
    ///
    /// # Errors
    /// As [`TractEngine::new`].
    pub fn quantized(spec: &NetworkSpec, encoder: &[u8], heads: &[u8]) -> Result<Self, EngineError> {
        Self::with(spec, encoder, heads, "int8")
    }

    fn with(spec: &NetworkSpec, encoder: &[u8], heads: &[u8], quantization: &'static str) -> Result<Self, EngineError> {
        restrain();
        let parse = |bytes: &[u8]| {
            tract_onnx::onnx()
                .model_for_read(&mut Cursor::new(bytes))
                .map_err(|e| EngineError::Unavailable { engine: NAME, reason: e.to_string() })
        };
        let (encoder, heads) = (parse(encoder)?, parse(heads)?);
        Ok(Self(Arc::new(Network { spec: spec.clone(), quantization, encoder, heads, plans: Mutex::new(HashMap::new()) })))
    }

    fn plans(&self, height: usize, width: usize) -> TractResult<Plans> {
        let mut plans = self.0.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = plans.get(&(height, width)) {
            return Ok(found.clone());
        }
        let fact = |channels: usize, stride: usize| f32::fact([1, channels, height / stride, width / stride]);
        let encoder = self.0.encoder.clone().with_input_fact(0, fact(self.0.spec.windows, 1).into())?.into_optimized()?.into_runnable()?;
        let mut heads = self.0.heads.clone();
        for (level, (stride, neck)) in STRIDES.into_iter().zip(self.0.spec.neck).enumerate() {
            heads = heads.with_input_fact(level, fact(neck * self.0.spec.context, stride).into())?;
        }
        let heads = heads.into_optimized()?.into_runnable()?;
        let made = Plans { encoder, heads };
        plans.insert((height, width), made.clone());
        Ok(made)
    }

    fn run_encoder(&self, slot: &SlotInput) -> TractResult<Features> {
        let cells = slot.height * slot.width;
        let mut planes = vec![0.0f32; slot.data.len()];
        for (i, cell) in slot.data.chunks_exact(3).enumerate() {
            for (c, v) in cell.iter().enumerate() {
                planes[c * cells + i] = *v;
            }
        }
        let input = Tensor::from_shape(&[1, 3, slot.height, slot.width], &planes)?;
        let outputs = self.plans(slot.height, slot.width)?.encoder.run(tvec!(input.into()))?;
        let levels = outputs.iter().map(values).collect::<TractResult<Vec<_>>>()?;
        Ok(Features { size: (slot.height, slot.width), levels })
    }

    fn run_heads(&self, window: &[&Features]) -> TractResult<Vec<Map>> {
        let (h, w) = window.first().map_or((0, 0), |f| f.size);
        let inputs = STRIDES
            .into_iter()
            .zip(self.0.spec.neck)
            .enumerate()
            .map(|(level, (stride, neck))| {
                // Channel-first maps of several slots, one after the other, are their concatenation by channel.
                let data: Vec<f32> = window.iter().flat_map(|f| f.levels[level].iter().copied()).collect();
                Ok(Tensor::from_shape(&[1, neck * window.len(), h / stride, w / stride], &data)?.into())
            })
            .collect::<TractResult<TVec<TValue>>>()?;
        let outputs = self.plans(h, w)?.heads.run(inputs)?;
        outputs
            .iter()
            .map(|output| {
                let (channels, height, width) = (output.shape()[1], output.shape()[2], output.shape()[3]);
                let planes = values(output)?;
                let mut data = vec![0.0; planes.len()];
                for (i, cell) in data.chunks_exact_mut(channels).enumerate() {
                    for (c, v) in cell.iter_mut().enumerate() {
                        *v = planes[c * height * width + i];
                    }
                }
                Ok(Map { height, width, channels, data })
            })
            .collect()
    }
}

fn values(tensor: &TValue) -> TractResult<Vec<f32>> {
    Ok(tensor.to_plain_array_view::<f32>()?.iter().copied().collect())
}

impl Engine for TractEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn quantization(&self) -> &'static str {
        self.0.quantization
    }

    fn context(&self) -> usize {
        self.0.spec.context
    }

    fn fork(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }

    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError> {
        self.run_encoder(slot).map_err(failed)
    }

    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError> {
        self.run_heads(window).map_err(failed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tract_has_a_kernel_for_either_operand_here() {
        let [f32, int8] = kernels().map(|(operands, kernel)| (operands, kernel.unwrap()));
        assert!((f32.0, int8.0) == ("f32", "int8") && f32.1.contains("f32") && int8.1.contains("i32"), "{f32:?} {int8:?}");
        assert!(!int8.1.contains("amx"), "{int8:?}");
    }
}
