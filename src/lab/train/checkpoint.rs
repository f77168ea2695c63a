//! Checkpoints: one file, written beside the old one and renamed over it, so that a full disk or a crash leaves the old one whole.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::optimizer::Optimizer;
use crate::detect::network::NetworkSpec;
use crate::detect::train_net::TrainNet;
use crate::detect::weights::FoldedWeights;
use crate::error::{Class, Failure};

/// File name in the output folder.
pub const FILE: &str = "checkpoint.safetensors";
const SPEC: &str = "network.toml";

/// How far training has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Optimizer steps.
    pub steps: usize,
    /// Samples seen.
    pub samples: usize,
    /// Minutes spent.
    pub minutes: f64,
}

fn io(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Io, format!("{}: {e}", path.display()))
}

fn data(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Data, format!("{}: {e}", path.display()))
}

/// Writes network, optimizer and progress.
///
/// # Errors
/// I/O, with the path; the previous checkpoint is untouched then.
pub fn save(folder: &Path, spec: &NetworkSpec, net: &TrainNet, optimizer: &Optimizer, progress: Progress) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| io(folder, &e))?;
    let path = folder.join(FILE);
    let mut state = net.state().map_err(|e| data(&path, &e))?;
    state.extend(optimizer.state());
    let numbers = [progress.steps as f64, progress.samples as f64, progress.minutes, optimizer.steps as f64];
    state.insert("progress".into(), Tensor::new(&numbers, &Device::Cpu).map_err(|e| data(&path, &e))?);
    let fresh = folder.join(format!("{FILE}.new"));
    candle_core::safetensors::save(&state, &fresh).map_err(|e| io(&fresh, &e))?;
    std::fs::File::open(&fresh).and_then(|f| f.sync_all()).and_then(|()| std::fs::rename(&fresh, &path)).map_err(|e| io(&path, &e))?;
    let text = toml::to_string(spec).map_err(|e| data(&path, &e))?;
    std::fs::write(folder.join(SPEC), text).map_err(|e| io(&folder.join(SPEC), &e))
}

fn load(folder: &Path) -> Result<(HashMap<String, Tensor>, Progress, usize), Failure> {
    let path = folder.join(FILE);
    let state = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| data(&path, &e))?;
    let numbers = state.get("progress").and_then(|t| t.to_vec1::<f64>().ok()).filter(|n| n.len() == 4);
    let n = numbers.ok_or_else(|| data(&path, &"no progress in it: not a checkpoint of this tool"))?;
    Ok((state, Progress { steps: n[0] as usize, samples: n[1] as usize, minutes: n[2] }, n[3] as usize))
}

/// Resumes from `folder` where it holds a checkpoint.
///
/// # Errors
/// A damaged checkpoint, or one of another network.
pub fn resume(folder: &Path, net: &TrainNet, optimizer: &mut Optimizer) -> Result<Progress, Failure> {
    if !folder.join(FILE).exists() {
        return Ok(Progress::default());
    }
    let (state, progress, steps) = load(folder)?;
    net.load_state(&state).map_err(|e| data(&folder.join(FILE), &e))?;
    optimizer.load(&state, steps);
    Ok(progress)
}

/// The averaged weights of a checkpoint, folded for inference.
///
/// # Errors
/// A damaged checkpoint.
pub fn folded(folder: &Path) -> Result<(NetworkSpec, FoldedWeights, Progress), Failure> {
    let path = folder.join(SPEC);
    let text = std::fs::read_to_string(&path).map_err(|e| io(&path, &e))?;
    let spec: NetworkSpec = toml::from_str(&text).map_err(|e| data(&path, &e))?;
    let (mut state, progress, _) = load(folder)?;
    let averages: Vec<(String, Tensor)> = state.iter().filter_map(|(n, t)| Some((n.strip_prefix("ema/")?.to_owned(), t.clone()))).collect();
    state.extend(averages);
    let net = TrainNet::new(&spec, &Device::Cpu, 0).map_err(|e| data(&path, &e))?;
    net.load_state(&state).map_err(|e| data(&folder.join(FILE), &e))?;
    Ok((spec, net.fold().map_err(|e| data(&folder.join(FILE), &e))?, progress))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let spec = NetworkSpec::tiny();
        let net = TrainNet::new(&spec, &Device::Cpu, 1).unwrap();
        let optimizer = Optimizer::new(net.vars()).unwrap();
        let progress = Progress { steps: 7, samples: 70, minutes: 1.5 };
        save(folder.path(), &spec, &net, &optimizer, progress).unwrap();
        let other = TrainNet::new(&spec, &Device::Cpu, 2).unwrap();
        let mut resumed = Optimizer::new(other.vars()).unwrap();
        assert_eq!(resume(folder.path(), &other, &mut resumed).unwrap(), progress);
        assert_eq!(net.fold().unwrap(), other.fold().unwrap());
        assert_eq!(folded(folder.path()).unwrap().1, net.fold().unwrap());
    }

    #[test]
    fn a_damaged_checkpoint_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"not a checkpoint").unwrap();
        let net = TrainNet::new(&NetworkSpec::tiny(), &Device::Cpu, 1).unwrap();
        let mut optimizer = Optimizer::new(net.vars()).unwrap();
        assert!(resume(folder.path(), &net, &mut optimizer).unwrap_err().message.contains(FILE));
    }
}
