//! The model bundle: a folder or a `.tar` with `bundle.toml`, the weights, the ONNX graphs, a self-test and the card. Everything that is named is
//! hashed; a bundle that does not hold what it says is refused as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::network::{Graph, HEAD_CHANNELS, NetworkSpec, STRIDES};
use super::prior::Prior;
use super::quantization::Quantization;
use super::weights::{FoldedWeights, Layer};
use super::{Engine, Map, SlotInput, gguf, onnx, onnx_int8};

/// The description's file name.
pub const DESCRIPTION: &str = "bundle.toml";
/// f32 master weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// Encoder for tract.
pub const ENCODER: &str = "encoder.onnx";
/// Heads for tract.
pub const HEADS: &str = "heads.onnx";
/// Weights in Q8_0; where a bundle has none they are made of the master when it is opened.
pub const GGUF: &str = "detector.q8_0.gguf";
/// Encoder with int8 convolutions for tract; where a bundle has none it is made of the master and the ranges in its description.
pub const ENCODER_INT8: &str = "encoder.int8.onnx";
/// Heads with int8 convolutions for tract, as [`ENCODER_INT8`].
pub const HEADS_INT8: &str = "heads.int8.onnx";
/// Where and as what radiologists mark lesions; a bundle without one ranks by looks alone.
pub const PRIOR: &str = "prior.toml";
/// Stored input and expected maps.
pub const SELF_TEST: &str = "self_test.safetensors";
/// What a reader needs to distrust it properly.
pub const CARD: &str = "CARD.md";
/// A larger file is not a bundle for this board.
const MOST_BYTES: u64 = 256 << 20;
/// Size of the self-test's slots.
const TEST_SIZE: (usize, usize) = (64, 96);
/// An f32 engine's raw outputs may differ by this share of their largest magnitude (order of summation).
pub const F32_TOLERANCE: f32 = 1e-3;
/// Likewise of an engine that computes in f16: 0.003 was found on the sample and the self-test, on a processor.
pub const F16_TOLERANCE: f32 = 0.02;
/// Likewise of an int8 engine.
pub const INT8_TOLERANCE: f32 = 0.2;
/// Likewise of an engine whose weights are Q8_0.
pub const Q8_0_TOLERANCE: f32 = 0.1;

/// Weights in Q8_0 differ by this share of a layer's root mean square from the master's at most: half of a 127th of the largest weight of a block at each
/// of its 32, where the others are next to nothing, is √32 / 254 = 2.2 %.
const MOST_Q8_LOSS: f32 = 0.025;

/// What the self-test allows an engine that computes in `quantization` to differ by, as a share of the largest magnitude of a map.
#[must_use]
pub fn tolerance(quantization: &str) -> f32 {
    match quantization {
        "int8" => INT8_TOLERANCE,
        "q8_0" => Q8_0_TOLERANCE,
        "f16" => F16_TOLERANCE,
        _ => F32_TOLERANCE,
    }
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error("bundle {file}: {reason}")]
    File {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// A file is not the one the description names.
    #[error("bundle {file}: SHA-256 is {found}, the description says {expected}; fetch the bundle again")]
    Hash {
        /// Which.
        file: String,
        /// As computed.
        found: String,
        /// As described.
        expected: String,
    },
    /// The description contradicts itself or the weights.
    #[error("bundle {file}: {reason}")]
    Content {
        /// Which.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// An engine computes something else than the bundle expects.
    #[error("self-test on {engine}: output {level} differs by {difference:.2e}, {tolerance:.0e} is allowed")]
    SelfTest {
        /// Engine name.
        engine: String,
        /// Index of the level.
        level: usize,
        /// Largest difference as a share of the largest magnitude.
        difference: f32,
        /// What is allowed.
        tolerance: f32,
    },
}

/// `bundle.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// e.g. `lesionwatch-synthetic`.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence: what it was trained on.
    pub training_data: String,
    /// Licence and attribution of the weights.
    pub licence: String,
    /// Name of the operating point that is used by default.
    pub default_operating_point: String,
    /// The network.
    pub network: NetworkSpec,
    /// What the network expects of a slot.
    pub input: Input,
    /// Type names in channel order.
    pub classes: Vec<String>,
    /// Thresholds on the calibrated score, with what was measured at each.
    pub operating_points: Vec<OperatingPoint>,
    /// Raw → calibrated score, rising, piecewise linear between these knots.
    pub calibration: Vec<[f32; 2]>,
    /// What int8 engines need besides the weights; without it they cannot start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// SHA-256 of every other file.
    pub files: BTreeMap<String, String>,
}

/// What the network expects of a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Slot pixel, mm.
    pub spacing_mm: f64,
    /// Distance of slots, mm.
    pub step_mm: f64,
    /// HU windows, channel by channel.
    pub windows_hu: [[f32; 2]; 3],
}

/// One threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// e.g. `default`.
    pub name: String,
    /// Least calibrated score.
    pub score: f32,
    /// False positives an image at it.
    pub fp_per_image: f32,
    /// Sensitivity at it.
    pub sensitivity: f32,
    /// On which data both were measured.
    pub measured_on: String,
}

/// A bundle that holds what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// The description.
    pub description: Description,
    /// Master weights.
    pub weights: FoldedWeights,
    /// SHA-256 of the master weights, hex.
    pub weights_sha256: String,
    /// SHA-256 of `bundle.toml`, hex: another wherever anything in the bundle is another, since it lists the files' own.
    pub description_sha256: String,
    /// ONNX of the encoder.
    pub encoder_onnx: Vec<u8>,
    /// ONNX of the heads.
    pub heads_onnx: Vec<u8>,
    /// Weights of the bundle's GGUF, where it has one.
    pub gguf_weights: Option<FoldedWeights>,
    /// The bundle's int8 graphs, encoder and heads, where it has them.
    pub int8_onnx: Option<(Vec<u8>, Vec<u8>)>,
    /// What finds are ranked by besides their looks, where it has it.
    pub prior: Option<Prior>,
    test: SelfTest,
}

#[derive(Debug, Clone, PartialEq)]
struct SelfTest {
    slots: Vec<SlotInput>,
    expected: Vec<Map>,
}

type Files = BTreeMap<String, Vec<u8>>;

/// SHA-256 in hex, as `bundle.toml` lists files.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn content(file: &str, reason: impl std::fmt::Display) -> BundleError {
    BundleError::Content { file: file.into(), reason: reason.to_string() }
}

impl Bundle {
    /// Opens a folder or a `.tar`.
    ///
    /// # Errors
    /// [`BundleError`], naming file and reason.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let fault = |file: &Path, e: &dyn std::fmt::Display| BundleError::File { file: file.display().to_string(), reason: e.to_string() };
        let meta = fs::metadata(path).map_err(|e| fault(path, &e))?;
        if !meta.is_dir() {
            if meta.len() > MOST_BYTES {
                return Err(fault(path, &format!("{} bytes, at most {MOST_BYTES} are read", meta.len())));
            }
            return Self::from_tar(&fs::read(path).map_err(|e| fault(path, &e))?);
        }
        let mut files = Files::new();
        for entry in fs::read_dir(path).map_err(|e| fault(path, &e))? {
            let entry = entry.map_err(|e| fault(path, &e))?;
            let size = entry.metadata().map_err(|e| fault(&entry.path(), &e))?;
            if size.is_file() && size.len() <= MOST_BYTES {
                files.insert(
                    entry.file_name().to_string_lossy().into_owned(),
                    fs::read(entry.path()).map_err(|e| fault(&entry.path(), &e))?,
                );
            }
        }
        Self::from_files(&files)
    }

    /// Reads a `.tar` held in memory.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_tar(bytes: &[u8]) -> Result<Self, BundleError> {
        let fault = |e: std::io::Error| BundleError::File { file: "tar".into(), reason: e.to_string() };
        let mut files = Files::new();
        for entry in tar::Archive::new(Cursor::new(bytes)).entries().map_err(fault)? {
            let mut entry = entry.map_err(fault)?;
            let name = entry.path().map_err(fault)?.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let mut data = Vec::new();
            entry.by_ref().take(MOST_BYTES).read_to_end(&mut data).map_err(fault)?;
            files.insert(name, data);
        }
        Self::from_files(&files)
    }

    fn from_files(files: &Files) -> Result<Self, BundleError> {
        let get = |name: &str| files.get(name).ok_or_else(|| BundleError::File { file: name.into(), reason: "missing".into() });
        let text = std::str::from_utf8(get(DESCRIPTION)?).map_err(|e| content(DESCRIPTION, e))?;
        let description: Description = toml::from_str(text).map_err(|e| content(DESCRIPTION, e.message()))?;
        for name in description.files.keys().filter(|n| files.contains_key(*n) || ![ENCODER, HEADS].contains(&n.as_str())) {
            description.holds(name, get(name)?)?;
        }
        for name in [WEIGHTS, ENCODER, HEADS, SELF_TEST] {
            if !description.files.contains_key(name) {
                return Err(content(DESCRIPTION, format!("{name} is not listed under [files]")));
            }
        }
        description.check().map_err(|reason| content(DESCRIPTION, reason))?;
        let weights = read_weights(get(WEIGHTS)?)?;
        weights.check(&description.network).map_err(|reason| content(WEIGHTS, reason))?;
        let test = SelfTest::read(get(SELF_TEST)?, &description.network)?;
        // Network and weights say what is in them, so a bundle may leave them out: written anew they are the same bytes, or refused.
        let graph = |name: &str, graph: &Graph| match files.get(name) {
            Some(bytes) => Ok(bytes.clone()),
            None => {
                let bytes = onnx::write(name, graph, &weights).map_err(|reason| content(name, reason))?;
                description.holds(name, &bytes).map(|()| bytes)
            }
        };
        let listed = |name: &str| description.files.contains_key(name).then(|| get(name)).transpose();
        let gguf_weights = listed(GGUF)?.map(|bytes| gguf::read(bytes, &description.network)).transpose().map_err(|r| content(GGUF, r))?;
        if let Some(other) = &gguf_weights {
            other.near(&weights, MOST_Q8_LOSS).map_err(|reason| content(GGUF, reason))?;
        }
        let int8_onnx = match (listed(ENCODER_INT8)?, listed(HEADS_INT8)?) {
            (Some(encoder), Some(heads)) => Some((encoder.clone(), heads.clone())),
            (None, None) => None,
            _ => return Err(content(DESCRIPTION, format!("{ENCODER_INT8} and {HEADS_INT8} go together, one is not listed under [files]"))),
        };
        let prior = listed(PRIOR)?.map(|bytes| read_prior(bytes)).transpose().map_err(|reason| content(PRIOR, reason))?;
        Ok(Self {
            weights_sha256: sha256(get(WEIGHTS)?),
            description_sha256: sha256(get(DESCRIPTION)?),
            encoder_onnx: graph(ENCODER, &description.network.encoder())?,
            heads_onnx: graph(HEADS, &description.network.heads())?,
            gguf_weights,
            int8_onnx,
            prior,
            description,
            weights,
            test,
        })
    }

    /// Weights for an engine that computes in Q8_0: the GGUF's, or the master's.
    #[must_use]
    pub fn q8_0_weights(&self) -> &FoldedWeights {
        self.gguf_weights.as_ref().unwrap_or(&self.weights)
    }

    /// ONNX of encoder and heads with int8 convolutions: the bundle's own, or made of master and ranges.
    ///
    /// # Errors
    /// A sentence where there are no ranges.
    pub fn int8_graphs(&self) -> Result<(Vec<u8>, Vec<u8>), String> {
        if let Some((encoder, heads)) = &self.int8_onnx {
            return Ok((encoder.clone(), heads.clone()));
        }
        let ranges = self.description.quantization.as_ref();
        let ranges = ranges.ok_or_else(|| format!("{DESCRIPTION} has no [quantization]; `lesionlab quantize` measures it"))?;
        let spec = &self.description.network;
        let encoder = onnx_int8::write(ENCODER_INT8, &spec.encoder(), &self.weights, ranges)?;
        Ok((encoder, onnx_int8::write(HEADS_INT8, &spec.heads(), &self.weights, ranges)?))
    }

    /// Puts ranges into the description of the bundle in `folder`, and with `files` the quantized weights and all graphs beside it.
    ///
    /// # Errors
    /// A folder that holds no bundle; ranges that do not fit it; I/O.
    pub fn quantize(folder: &Path, quantization: &Quantization, files: bool) -> Result<(), BundleError> {
        let mut bundle = Self::open(folder)?;
        quantization.check(&bundle.description.network).map_err(|reason| content(DESCRIPTION, reason))?;
        bundle.description.quantization = Some(quantization.clone());
        bundle.int8_onnx = None;
        let mut written = Files::new();
        if files {
            written.insert(GGUF.into(), gguf::write(&bundle.description.network, &bundle.weights).map_err(|r| content(GGUF, r))?);
            let (encoder, heads) = bundle.int8_graphs().map_err(|r| content(ENCODER_INT8, r))?;
            written.extend([(ENCODER_INT8.to_owned(), encoder), (HEADS_INT8.to_owned(), heads)]);
            // They may have been left out.
            written.extend([(ENCODER.to_owned(), bundle.encoder_onnx.clone()), (HEADS.to_owned(), bundle.heads_onnx.clone())]);
        }
        for name in [GGUF, ENCODER_INT8, HEADS_INT8] {
            // Older ones were made with other ranges.
            bundle.description.files.remove(name);
        }
        bundle.description.files.extend(written.iter().map(|(name, bytes)| (name.clone(), sha256(bytes))));
        replace(folder, &bundle.description, written)
    }

    /// Puts `prior` into the bundle in `folder`, with `calibration` and `operating_points` as they are with it.
    ///
    /// # Errors
    /// A folder that holds no bundle; a table, knots or points that cannot be used; I/O.
    pub fn put_prior(
        folder: &Path,
        prior: &Prior,
        calibration: &[[f32; 2]],
        operating_points: &[OperatingPoint],
    ) -> Result<(), BundleError> {
        let mut description = Self::open(folder)?.description;
        prior.check().map_err(|reason| content(PRIOR, reason))?;
        let text = toml::to_string(prior).map_err(|e| content(PRIOR, e))?;
        description.files.insert(PRIOR.into(), sha256(text.as_bytes()));
        description.calibration = calibration.to_vec();
        description.operating_points = operating_points.to_vec();
        description.check().map_err(|reason| content(DESCRIPTION, reason))?;
        replace(folder, &description, Files::from([(PRIOR.to_owned(), text.into_bytes())]))
    }

    /// Writes a bundle folder; `description.files` is filled in. `reference` computes the self-test's expected maps.
    ///
    /// # Errors
    /// I/O; weights that do not fit the network.
    pub fn write(
        folder: &Path,
        mut description: Description,
        weights: &FoldedWeights,
        card: &str,
        reference: &mut dyn Engine,
    ) -> Result<(), BundleError> {
        weights.check(&description.network).map_err(|reason| content(WEIGHTS, reason))?;
        let graph = |file: &str, graph: &Graph| onnx::write(file, graph, weights).map_err(|reason| content(file, reason));
        let mut files = Files::new();
        files.insert(WEIGHTS.into(), write_weights(weights)?);
        files.insert(ENCODER.into(), graph(ENCODER, &description.network.encoder())?);
        files.insert(HEADS.into(), graph(HEADS, &description.network.heads())?);
        files.insert(SELF_TEST.into(), SelfTest::make(description.network.context, reference)?);
        files.insert(CARD.into(), card.as_bytes().to_vec());
        description.files = files.iter().map(|(name, bytes)| (name.clone(), sha256(bytes))).collect();
        let text = toml::to_string(&description).map_err(|e| content(DESCRIPTION, e))?;
        files.insert(DESCRIPTION.into(), text.into_bytes());
        let fault = |file: &Path, e: std::io::Error| BundleError::File { file: file.display().to_string(), reason: e.to_string() };
        fs::create_dir_all(folder).map_err(|e| fault(folder, e))?;
        for (name, bytes) in &files {
            fs::write(folder.join(name), bytes).map_err(|e| fault(&folder.join(name), e))?;
        }
        Ok(())
    }

    /// Runs the self-test on `engine`.
    ///
    /// # Errors
    /// [`BundleError::SelfTest`] with the level and the difference.
    pub fn self_test(&self, engine: &mut dyn Engine, tolerance: f32) -> Result<(), BundleError> {
        let differences = self.differences(engine)?;
        match differences.into_iter().enumerate().find(|(_, d)| *d > tolerance) {
            Some((level, difference)) => Err(BundleError::SelfTest { engine: engine.name().into(), level, difference, tolerance }),
            None => Ok(()),
        }
    }

    /// What the self-test finds, level by level: the largest difference from what is expected as a share of the largest magnitude; infinite where the
    /// engine makes something that is not finite, or too little.
    ///
    /// # Errors
    /// [`BundleError::Content`] where the engine fails.
    pub fn differences(&self, engine: &mut dyn Engine) -> Result<Vec<f32>, BundleError> {
        let got = run(engine, &self.test.slots).map_err(|reason| content(SELF_TEST, reason))?;
        let of = |(level, expected): (usize, &Map)| {
            let largest = expected.data.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            let Some(got) = got.get(level).filter(|g| g.data.len() == expected.data.len()) else { return f32::INFINITY };
            let worst = got.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs() / largest);
            worst.fold(0.0f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
        };
        Ok(self.test.expected.iter().enumerate().map(of).collect())
    }

    /// The default operating point.
    #[must_use]
    pub fn operating_point(&self) -> Option<&OperatingPoint> {
        self.description.operating_points.iter().find(|p| p.name == self.description.default_operating_point)
    }
}

impl Description {
    /// Whether these are the bytes that `[files]` lists under this name.
    fn holds(&self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let (found, expected) = (sha256(bytes), self.files.get(name).cloned().unwrap_or_default());
        if found == expected { Ok(()) } else { Err(BundleError::Hash { file: name.into(), found, expected }) }
    }

    fn check(&self) -> Result<(), String> {
        self.network.check()?;
        let here = Input {
            spacing_mm: crate::volume::frame::SPACING_MM,
            step_mm: crate::volume::slots::STEP_MM,
            windows_hu: crate::volume::window::WINDOWS_HU,
        };
        if self.input != here {
            return Err(format!("[input] is {:?}, this program makes {here:?}", self.input));
        }
        if self.classes != super::TYPE_NAMES {
            return Err(format!("classes are {:?}, this program knows {:?}", self.classes, super::TYPE_NAMES));
        }
        if !self.operating_points.iter().any(|p| p.name == self.default_operating_point) {
            return Err(format!("default_operating_point \"{}\" is not among the operating points", self.default_operating_point));
        }
        let rising = self.calibration.windows(2).all(|w| w[0][0] < w[1][0] && w[0][1] <= w[1][1]);
        if self.calibration.is_empty() || !rising || self.calibration.iter().flatten().any(|v| !(0.0..=1.0).contains(v)) {
            return Err("calibration needs knots between 0 and 1 that rise".into());
        }
        self.quantization.as_ref().map_or(Ok(()), |q| q.check(&self.network))
    }
}

/// Writes `files` and the description into a bundle's folder, each whole or not at all: beside, then renamed.
fn replace(folder: &Path, description: &Description, mut files: Files) -> Result<(), BundleError> {
    let text = toml::to_string(description).map_err(|e| content(DESCRIPTION, e))?;
    files.insert(DESCRIPTION.into(), text.into_bytes());
    let fault = |file: &Path, e: std::io::Error| BundleError::File { file: file.display().to_string(), reason: e.to_string() };
    for (name, bytes) in &files {
        let beside = folder.join(format!("{name}.new"));
        fs::write(&beside, bytes).map_err(|e| fault(&beside, e))?;
        fs::rename(&beside, folder.join(name)).map_err(|e| fault(&folder.join(name), e))?;
    }
    Ok(())
}

fn read_prior(bytes: &[u8]) -> Result<Prior, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let prior: Prior = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    prior.check().map(|()| prior)
}

fn run(engine: &mut dyn Engine, slots: &[SlotInput]) -> Result<Vec<Map>, String> {
    let features = slots.iter().map(|s| engine.encode(s)).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    engine.heads(&features.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())
}

impl SelfTest {
    /// A pattern of waves of several lengths: every layer sees edges and flat ground.
    fn make(context: usize, reference: &mut dyn Engine) -> Result<Vec<u8>, BundleError> {
        let (height, width) = TEST_SIZE;
        let slot = |n: usize| {
            let data = (0..height * width * 3)
                .map(|i| {
                    let (x, y, c) = ((i / 3 % width) as f32, (i / 3 / width) as f32, (i % 3) as f32);
                    0.5 + 0.25 * (x * 0.31 + c + n as f32 * 0.2).sin() + 0.25 * (y * 0.17 - x * 0.05 * c).cos()
                })
                .collect();
            SlotInput { height, width, data }
        };
        let slots: Vec<SlotInput> = (0..context).map(slot).collect();
        let expected = run(reference, &slots).map_err(|reason| content(SELF_TEST, reason))?;
        let fault = |e: candle_core::Error| content(SELF_TEST, e);
        let data: Vec<f32> = slots.iter().flat_map(|s| s.data.iter().copied()).collect();
        let mut tensors = std::collections::HashMap::from([(
            "slots".to_owned(),
            Tensor::from_vec(data, (context, height, width, 3), &Device::Cpu).map_err(fault)?,
        )]);
        for (stride, map) in STRIDES.iter().zip(expected) {
            let t = Tensor::from_vec(map.data, (map.height, map.width, map.channels), &Device::Cpu).map_err(fault)?;
            tensors.insert(format!("out{stride}"), t);
        }
        to_bytes(&tensors, SELF_TEST)
    }

    fn read(bytes: &[u8], spec: &NetworkSpec) -> Result<Self, BundleError> {
        let fault = |e: candle_core::Error| content(SELF_TEST, e);
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(fault)?;
        let get = |name: &str| tensors.get(name).ok_or_else(|| content(SELF_TEST, format!("{name} is missing")));
        let (n, height, width, _) = get("slots")?.dims4().map_err(fault)?;
        if n != spec.context || get("slots")?.dims()[3] != 3 || height % 32 != 0 || width % 32 != 0 {
            return Err(content(SELF_TEST, "the stored slots do not fit the network"));
        }
        let data: Vec<f32> = get("slots")?.flatten_all().and_then(|t| t.to_vec1()).map_err(fault)?;
        let slots = data.chunks_exact(height * width * 3).map(|d| SlotInput { height, width, data: d.to_vec() }).collect();
        let mut expected = Vec::new();
        for stride in STRIDES {
            let t = get(&format!("out{stride}"))?;
            let (h, w, c) = t.dims3().map_err(fault)?;
            if (h, w, c) != (height / stride, width / stride, HEAD_CHANNELS) {
                return Err(content(SELF_TEST, format!("out{stride} has shape {h} × {w} × {c}")));
            }
            expected.push(Map { height: h, width: w, channels: c, data: t.flatten_all().and_then(|t| t.to_vec1()).map_err(fault)? });
        }
        Ok(Self { slots, expected })
    }
}

fn to_bytes(tensors: &std::collections::HashMap<String, Tensor>, file: &str) -> Result<Vec<u8>, BundleError> {
    // candle writes safetensors to files only.
    let path = std::env::temp_dir().join(format!("lesionwatch-{}-{file}", uuid::Uuid::now_v7()));
    let fault = |e: &dyn std::fmt::Display| BundleError::File { file: path.display().to_string(), reason: e.to_string() };
    candle_core::safetensors::save(tensors, &path).map_err(|e| fault(&e))?;
    let bytes = fs::read(&path).map_err(|e| fault(&e));
    fs::remove_file(&path).map_err(|e| fault(&e))?;
    bytes
}

fn write_weights(weights: &FoldedWeights) -> Result<Vec<u8>, BundleError> {
    let mut tensors = std::collections::HashMap::new();
    for (name, layer) in &weights.0 {
        for (suffix, values) in [("weight", &layer.weights), ("bias", &layer.bias)] {
            let t = Tensor::from_slice(values, values.len(), &Device::Cpu).map_err(|e| content(WEIGHTS, e))?;
            tensors.insert(format!("{name}.{suffix}"), t);
        }
    }
    to_bytes(&tensors, WEIGHTS)
}

fn read_weights(bytes: &[u8]) -> Result<FoldedWeights, BundleError> {
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|e| content(WEIGHTS, e))?;
    let mut weights = FoldedWeights::default();
    for (name, tensor) in &tensors {
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| content(WEIGHTS, e))?;
        let (layer, part) = name.rsplit_once('.').ok_or_else(|| content(WEIGHTS, format!("unexpected tensor {name}")))?;
        let entry = weights.0.entry(layer.to_owned()).or_insert_with(|| Layer { weights: Vec::new(), bias: Vec::new() });
        match part {
            "weight" => entry.weights = values,
            "bias" => entry.bias = values,
            _ => return Err(content(WEIGHTS, format!("unexpected tensor {name}"))),
        }
    }
    Ok(weights)
}
