//! AdamW (Loshchilov & Hutter 2019) with gradient clipping and an exponential moving average of the weights.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.02;
/// Norm of the whole gradient above which it is scaled down.
const MOST_NORM: f64 = 10.0;
/// Share of the average that is kept a step, once it has run in.
const EMA: f64 = 0.999;

/// State of the optimizer: a first and a second moment and an average a variable.
pub struct Optimizer {
    vars: Vec<(String, Var)>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    average: Vec<Tensor>,
    /// Steps taken.
    pub steps: usize,
}

impl Optimizer {
    /// Starts at zero moments.
    ///
    /// # Errors
    /// candle's.
    pub fn new(vars: Vec<(String, Var)>) -> Result<Self> {
        let zeros = || vars.iter().map(|(_, v)| v.zeros_like()).collect::<Result<Vec<_>>>();
        let (first, second) = (zeros()?, zeros()?);
        let average = vars.iter().map(|(_, v)| v.as_tensor().detach().copy()).collect::<Result<Vec<_>>>()?;
        Ok(Self { vars, first, second, average, steps: 0 })
    }

    /// One step; returns the norm of the gradient. A gradient that is not finite changes nothing and is returned as it is.
    ///
    /// # Errors
    /// candle's.
    pub fn step(&mut self, grads: &GradStore, rate: f64) -> Result<f64> {
        let squares = self.vars.iter().filter_map(|(_, var)| grads.get(var)).map(|g| g.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        // Read at once: a GPU is waited for once a step, not once a variable.
        let squares: Vec<f32> = if squares.is_empty() { Vec::new() } else { Tensor::stack(&squares, 0)?.to_vec1()? };
        let norm = squares.iter().map(|s| f64::from(*s)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let scale = (MOST_NORM / norm.max(1e-12)).min(1.0);
        let (c1, c2) = (1.0 - BETA1.powf(self.steps as f64), 1.0 - BETA2.powf(self.steps as f64));
        let keep = EMA.min(self.steps as f64 / (self.steps as f64 + 10.0));
        for (i, (name, var)) in self.vars.iter().enumerate() {
            let Some(g) = grads.get(var) else { continue };
            let g = (g * scale)?;
            self.first[i] = ((&self.first[i] * BETA1)? + (&g * (1.0 - BETA1))?)?.detach();
            self.second[i] = ((&self.second[i] * BETA2)? + (g.sqr()? * (1.0 - BETA2))?)?.detach();
            let update = ((&self.first[i] / c1)? / ((&self.second[i] / c2)?.sqrt()? + EPSILON)?)?;
            let decay = if name.ends_with(".weight") { WEIGHT_DECAY } else { 0.0 };
            let value = ((var.as_tensor() * (1.0 - rate * decay))? - (update * rate)?)?;
            var.set(&value)?;
            self.average[i] = ((&self.average[i] * keep)? + (var.as_tensor() * (1.0 - keep))?)?.detach();
        }
        Ok(norm)
    }

    /// Everything needed to go on, by name.
    #[must_use]
    pub fn state(&self) -> HashMap<String, Tensor> {
        let mut state = HashMap::new();
        for (i, (name, _)) in self.vars.iter().enumerate() {
            state.insert(format!("adam1/{name}"), self.first[i].clone());
            state.insert(format!("adam2/{name}"), self.second[i].clone());
            state.insert(format!("ema/{name}"), self.average[i].clone());
        }
        state
    }

    /// Takes over what [`Optimizer::state`] gave; what is missing stays at its start.
    ///
    /// # Errors
    /// candle's.
    pub fn load(&mut self, state: &HashMap<String, Tensor>, steps: usize) -> Result<()> {
        self.steps = steps;
        for (i, (name, _)) in self.vars.iter().enumerate() {
            for (prefix, slot) in [("adam1", &mut self.first[i]), ("adam2", &mut self.second[i]), ("ema", &mut self.average[i])] {
                if let Some(t) = state.get(&format!("{prefix}/{name}")).filter(|t| t.dims() == slot.dims()) {
                    *slot = t.to_device(slot.device())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn it_goes_down_a_bowl_and_stops_at_nothing_finite() {
        let x = Var::new(&[3f32, -2.0], &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new(vec![("x.weight".into(), x.clone())]).unwrap();
        for _ in 0..300 {
            let grads = x.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            optimizer.step(&grads, 0.05).unwrap();
        }
        assert!(x.to_vec1::<f32>().unwrap().iter().all(|v| v.abs() < 0.1));
        let before = x.to_vec1::<f32>().unwrap();
        let grads = (x.as_tensor() * f64::NAN).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(!optimizer.step(&grads, 0.05).unwrap().is_finite());
        assert_eq!(x.to_vec1::<f32>().unwrap(), before);
    }
}
