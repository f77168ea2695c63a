//! The folded network: one weight and one bias a convolution, batch norm already multiplied in.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::network::{Conv, Graph, NetworkSpec};

/// Weights of one convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// `[kernel, kernel, inputs, outputs]`.
    pub weights: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// All convolutions of encoder and heads by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FoldedWeights(pub BTreeMap<String, Layer>);

impl FoldedWeights {
    /// The layer of `conv`.
    ///
    /// # Errors
    /// A sentence naming the layer where it is missing or has another shape or a value that is not finite.
    pub fn layer(&self, conv: &Conv) -> Result<&Layer, String> {
        let layer = self.0.get(&conv.name).ok_or_else(|| format!("layer {} is missing", conv.name))?;
        let expected = conv.kernel * conv.kernel * conv.inputs * conv.outputs;
        if layer.weights.len() != expected || layer.bias.len() != conv.outputs {
            return Err(format!(
                "layer {} has {} weights and {} biases, its description asks for {expected} and {}",
                conv.name,
                layer.weights.len(),
                layer.bias.len(),
                conv.outputs
            ));
        }
        if layer.weights.iter().chain(&layer.bias).any(|v| !v.is_finite()) {
            return Err(format!("layer {} holds a value that is not finite", conv.name));
        }
        Ok(layer)
    }

    /// Checks that exactly the layers of `spec` are there, each of its shape and finite.
    ///
    /// # Errors
    /// As [`FoldedWeights::layer`].
    pub fn check(&self, spec: &NetworkSpec) -> Result<(), String> {
        let graphs = [spec.encoder(), spec.heads()];
        let mut count = 0;
        for conv in graphs.iter().flat_map(Graph::convs) {
            self.layer(conv)?;
            count += 1;
        }
        if count == self.0.len() { Ok(()) } else { Err(format!("{} layers, its description asks for {count}", self.0.len())) }
    }

    /// Every weight and bias as `(1 - share) · self + share · other`: between a network and what it was fine-tuned to, the mean keeps most of both where
    /// either alone has lost something (Wortsman et al. 2022, arXiv:2109.01903).
    ///
    /// # Errors
    /// A sentence naming the layer that the other lacks or has in another shape.
    pub fn blended(&self, other: &Self, share: f32) -> Result<Self, String> {
        if let Some(name) = other.0.keys().find(|name| !self.0.contains_key(*name)) {
            return Err(format!("layer {name} is in one of the networks only"));
        }
        let mean = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (1.0 - share) * a + share * b).collect::<Vec<f32>>();
        let layer = |(name, a): (&String, &Layer)| {
            let b = other.0.get(name).ok_or_else(|| format!("layer {name} is in one of the networks only"))?;
            if (a.weights.len(), a.bias.len()) != (b.weights.len(), b.bias.len()) {
                return Err(format!("layer {name} has {} weights in one network and {} in the other", a.weights.len(), b.weights.len()));
            }
            Ok((name.clone(), Layer { weights: mean(&a.weights, &b.weights), bias: mean(&a.bias, &b.bias) }))
        };
        self.0.iter().map(layer).collect::<Result<_, _>>().map(Self)
    }

    /// Every weight and bias as a value that both f16 and bf16 have: off by 2⁻⁸ of itself at most (by 3e-8 below 6e-5), about what Q8_0 costs. An engine in
    /// f16 then has the very weights of the f32 ones, and a file of them packs to two fifths.
    ///
    /// # Errors
    /// A sentence naming the layer that holds a value beyond f16's 65,504.
    pub fn rounded_to_half(&self) -> Result<Self, String> {
        let layer = |(name, layer): (&String, &Layer)| {
            let rounded = |values: &[f32]| {
                let mut tensor = Tensor::new(values, &Device::Cpu)?;
                for half in [DType::BF16, DType::F16] {
                    tensor = tensor.to_dtype(half)?.to_dtype(DType::F32)?;
                }
                tensor.to_vec1::<f32>()
            };
            let whole = |values: &[f32]| rounded(values).map_err(|e| format!("layer {name}: {e}"));
            let layer = Layer { weights: whole(&layer.weights)?, bias: whole(&layer.bias)? };
            match layer.weights.iter().chain(&layer.bias).all(|v| v.is_finite()) {
                true => Ok((name.clone(), layer)),
                false => Err(format!("layer {name} holds a value that f16 does not reach")),
            }
        };
        self.0.iter().map(layer).collect::<Result<_, _>>().map(Self)
    }

    /// Whether every layer of `self` is that of `master` but for a share `most` of its root mean square.
    ///
    /// # Errors
    /// A sentence naming the layer and by how much it differs.
    pub fn near(&self, master: &Self, most: f32) -> Result<(), String> {
        for (name, layer) in &self.0 {
            let other = master.0.get(name).ok_or_else(|| format!("layer {name} is not among the master weights"))?;
            let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let lost = squares(&mut layer.weights.iter().zip(&other.weights).map(|(a, b)| a - b));
            let share = (lost / squares(&mut other.weights.iter().copied()).max(f64::MIN_POSITIVE)).sqrt();
            if share > f64::from(most) || layer.bias != other.bias {
                return Err(format!("layer {name} differs from the master weights by {:.1} % of their size", share * 100.0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_lies_between_and_refuses_another_network() {
        let of = |weights: &[f32], bias: f32| FoldedWeights([("a".into(), Layer { weights: weights.to_vec(), bias: vec![bias] })].into());
        let (a, b) = (of(&[1.0, 2.0], 0.0), of(&[3.0, 0.0], 4.0));
        assert_eq!(a.blended(&b, 0.25).unwrap(), of(&[1.5, 1.5], 1.0));
        assert_eq!((a.blended(&b, 0.0).unwrap(), a.blended(&b, 1.0).unwrap()), (a.clone(), b));
        assert!(a.blended(&of(&[1.0], 0.0), 0.5).unwrap_err().contains("layer a has 2 weights"));
        let mut more = a.clone();
        more.0.insert("b".into(), Layer { weights: Vec::new(), bias: Vec::new() });
        assert!(a.blended(&more, 0.5).is_err() && more.blended(&a, 0.5).is_err());
    }

    #[test]
    fn rounding_keeps_what_both_halves_have_and_refuses_what_f16_does_not_reach() {
        let of = |weights: &[f32], bias: f32| FoldedWeights([("a".into(), Layer { weights: weights.to_vec(), bias: vec![bias] })].into());
        let rounded = of(&[1.0, 0.1, -3.3], 1e-9).rounded_to_half().unwrap();
        assert_eq!(rounded, of(&[1.0, 0.100_097_656, -3.296_875], 0.0));
        assert_eq!(rounded.rounded_to_half().unwrap(), rounded, "a value that both have stays");
        assert!(of(&[1.0], 1e6).rounded_to_half().unwrap_err().contains("layer a"));
    }
}
