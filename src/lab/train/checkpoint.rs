//! Checkpoints: one file, written and synced beside the old one and renamed over it, so that a full disk or a crash leaves the old one whole.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::optimizer::Optimizer;
use crate::detect::network::NetworkSpec;
use crate::detect::train_net::TrainNet;
use crate::detect::weights::FoldedWeights;
use crate::error::{Class, Failure};

/// File name in the output folder.
pub const FILE: &str = "checkpoint.safetensors";
const SPEC: &str = "network.toml";
/// Where a checkpoint is written before it takes its place.
const PART: &str = "checkpoint.part";

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

impl Progress {
    /// Of two runs together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { steps: self.steps + other.steps, samples: self.samples + other.samples, minutes: self.minutes + other.minutes }
    }
}

fn io(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Io, format!("{}: {e}", path.display()))
}

fn data(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Data, format!("{}: {e}", path.display()))
}

/// Writes network, optimizer and progress: into a folder of its own beside the last checkpoint, synced, then renamed over it.
///
/// # Errors
/// I/O, with the path and what is left; the previous checkpoint is untouched then.
pub fn save(folder: &Path, spec: &NetworkSpec, net: &TrainNet, optimizer: &Optimizer, progress: Progress) -> Result<(), Failure> {
    let part = folder.join(PART);
    let written = write(folder, &part, spec, net, optimizer, progress);
    // Where it failed this frees what was written of it; where it did not the folder is empty. One that stays does no harm.
    let _ = std::fs::remove_dir_all(&part);
    written.map_err(|Broken { path, reason, full }| {
        let left = match load(folder) {
            Ok((_, last, _)) => format!("the last checkpoint, of step {}, is whole", last.steps),
            Err(_) => "there is no earlier checkpoint".to_owned(),
        };
        let text = if full {
            format!(
                "{}: disk full, the checkpoint of step {} is not written; {left}. Free space and start again: training resumes",
                path.display(),
                progress.steps
            )
        } else {
            format!("{}: the checkpoint of step {} is not written: {reason}; {left}", path.display(), progress.steps)
        };
        Failure::new(Class::Io, text)
    })
}

/// Why a checkpoint was not written.
struct Broken {
    path: PathBuf,
    reason: String,
    full: bool,
}

impl Broken {
    fn new(path: &Path, e: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(e);
        let mut full = false;
        while let Some(e) = cause {
            let kind = e.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            full |= matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
            cause = e.source();
        }
        Self { path: path.to_owned(), reason: e.to_string(), full }
    }
}

fn write(folder: &Path, part: &Path, spec: &NetworkSpec, net: &TrainNet, optimizer: &Optimizer, progress: Progress) -> Result<(), Broken> {
    let path = folder.join(FILE);
    let mut state = net.state().map_err(|e| Broken::new(&path, &e))?;
    state.extend(optimizer.state());
    let numbers = [progress.steps as f64, progress.samples as f64, progress.minutes, optimizer.steps as f64];
    state.insert("progress".into(), Tensor::new(&numbers, &Device::Cpu).map_err(|e| Broken::new(&path, &e))?);
    let text = toml::to_string(spec).map_err(|e| Broken::new(&path, &e))?;
    // Of a process that was killed while it wrote, if it is there.
    let _ = std::fs::remove_dir_all(part);
    std::fs::create_dir_all(part).map_err(|e| Broken::new(part, &e))?;
    let fresh = [part.join(SPEC), part.join(FILE)];
    std::fs::write(&fresh[0], text).map_err(|e| Broken::new(&fresh[0], &e))?;
    candle_core::safetensors::save(&state, &fresh[1]).map_err(|e| Broken::new(&fresh[1], &e))?;
    for (from, to) in fresh.iter().zip([folder.join(SPEC), path]) {
        std::fs::File::open(from).and_then(|f| f.sync_all()).map_err(|e| Broken::new(from, &e))?;
        std::fs::rename(from, &to).map_err(|e| Broken::new(&to, &e))?;
    }
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Broken::new(folder, &e))
}

fn load(folder: &Path) -> Result<(HashMap<String, Tensor>, Progress, usize), Failure> {
    let path = folder.join(FILE);
    let state = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| data(&path, &e))?;
    let numbers = state.get("progress").and_then(|t| t.to_vec1::<f64>().ok()).filter(|n| n.len() == 4);
    let n = numbers.ok_or_else(|| data(&path, &"no progress in it: not a checkpoint of this tool"))?;
    Ok((state, Progress { steps: n[0] as usize, samples: n[1] as usize, minutes: n[2] }, n[3] as usize))
}

/// How far the checkpoint in `folder` has come, `None` where there is none.
///
/// # Errors
/// A damaged checkpoint.
pub fn progress(folder: &Path) -> Result<Option<Progress>, Failure> {
    if folder.join(FILE).exists() { load(folder).map(|(_, progress, _)| Some(progress)) } else { Ok(None) }
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
    net.load_state(&state).and_then(|()| optimizer.load(&state, steps)).map_err(|e| data(&folder.join(FILE), &e))?;
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
    let (state, progress, _) = load(folder)?;
    let weights = with_averages(&spec, state).map_err(|e| data(&folder.join(FILE), &e))?;
    Ok((spec, weights, progress))
}

/// The mean of the weights of these runs, each with an equal share, and what they took together. Runs that began from the same weights lie close enough
/// together that their mean is usually better than any of them (Wortsman et al. 2022, arXiv:2203.05482).
///
/// # Errors
/// No run, a damaged checkpoint, another network.
pub fn mean(runs: &[PathBuf]) -> Result<(NetworkSpec, FoldedWeights, Progress), Failure> {
    let mut sum: Option<(NetworkSpec, FoldedWeights, Progress)> = None;
    for (n, folder) in runs.iter().enumerate() {
        let (spec, weights, progress) = folded(folder)?;
        sum = Some(match sum {
            None => (spec, weights, progress),
            Some((first, so_far, before)) => {
                let mixed = so_far.blended(&weights, 1.0 / (n as f32 + 1.0));
                (first, mixed.map_err(|e| Failure::new(Class::Data, format!("{}: {e}", folder.display())))?, before.plus(progress))
            }
        });
    }
    sum.ok_or_else(|| Failure::new(Class::Usage, "--checkpoint: no run is named"))
}

/// The averaged weights of a training under way, folded for inference.
///
/// # Errors
/// candle's.
pub fn averaged(spec: &NetworkSpec, net: &TrainNet, optimizer: &Optimizer) -> candle_core::Result<FoldedWeights> {
    let mut state = net.state()?;
    state.extend(optimizer.state());
    with_averages(spec, state)
}

fn with_averages(spec: &NetworkSpec, mut state: HashMap<String, Tensor>) -> candle_core::Result<FoldedWeights> {
    let averages: Vec<(String, Tensor)> = state.iter().filter_map(|(n, t)| Some((n.strip_prefix("ema/")?.to_owned(), t.clone()))).collect();
    state.extend(averages);
    let net = TrainNet::new(spec, &Device::Cpu, 0)?;
    net.load_state(&state)?;
    net.fold()
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
        assert_eq!(averaged(&spec, &net, &optimizer).unwrap(), net.fold().unwrap());
        assert!(!folder.path().join(PART).exists());
    }

    /// A folder stands where the checkpoint is to go: it cannot be replaced, and the message says what there is.
    #[test]
    fn a_checkpoint_that_cannot_be_written_says_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join(FILE).join("in the way")).unwrap();
        let spec = NetworkSpec::tiny();
        let net = TrainNet::new(&spec, &Device::Cpu, 1).unwrap();
        let optimizer = Optimizer::new(net.vars()).unwrap();
        let failure = save(folder.path(), &spec, &net, &optimizer, Progress { steps: 9, ..Progress::default() }).unwrap_err();
        assert_eq!(failure.class, Class::Io);
        assert!(failure.message.contains("step 9") && failure.message.contains("no earlier checkpoint"), "{failure}");
        assert!(!folder.path().join(PART).exists());
    }

    #[test]
    fn the_mean_of_runs_has_an_equal_share_of_each_and_refuses_another_network() {
        let run = |spec: &NetworkSpec, seed: u64| {
            let folder = tempfile::tempdir().unwrap();
            let net = TrainNet::new(spec, &Device::Cpu, seed).unwrap();
            let progress = Progress { steps: 10, samples: 100, minutes: 1.0 };
            save(folder.path(), spec, &net, &Optimizer::new(net.vars()).unwrap(), progress).unwrap();
            (folder, net.fold().unwrap())
        };
        let tiny = NetworkSpec::tiny();
        let runs: Vec<_> = (1..4).map(|seed| run(&tiny, seed)).collect();
        let paths: Vec<PathBuf> = runs.iter().map(|(folder, _)| folder.path().to_owned()).collect();
        let (spec, all, progress) = mean(&paths).unwrap();
        assert_eq!((spec, progress), (tiny, Progress { steps: 30, samples: 300, minutes: 3.0 }));
        for (name, layer) in &all.0 {
            for (i, got) in layer.weights.iter().enumerate() {
                let wanted = runs.iter().map(|(_, w)| w.0[name].weights[i]).sum::<f32>() / 3.0;
                assert!((got - wanted).abs() < 1e-5, "{name}: {got}, {wanted}");
            }
        }
        let other = run(&NetworkSpec { widths: [4, 8, 8, 8, 12], ..NetworkSpec::tiny() }, 1);
        let e = mean(&[paths[0].clone(), other.0.path().to_owned()]).unwrap_err();
        assert!(e.message.contains(&other.0.path().display().to_string()), "{e}");
        assert_eq!(mean(&[]).unwrap_err().class, Class::Usage);
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
