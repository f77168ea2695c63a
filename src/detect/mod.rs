//! The network, its engines, and the boxes of one slot. Knows nothing of DICOM.

pub use crate::volume::SlotInput;

pub mod batch;
pub mod bundle;
pub mod candle_engine;
pub mod composed;
pub mod conv;
pub mod crew;
pub mod cuda;
pub mod device_net;
pub mod gguf;
pub mod guard;
pub mod heads;
pub mod matmul;
pub mod network;
pub mod nms;
pub mod norm;
pub mod onnx;
pub mod onnx_int8;
pub mod ops;
pub mod prior;
pub mod q8_0;
pub mod quantization;
pub mod select;
pub mod standby;
pub mod tiny;
pub mod tract_engine;
pub mod train_net;
mod vector;
pub mod verdict;
pub mod walk;
pub mod weights;

/// A dense float map, channels last.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// `height * width * channels` values, cell by cell.
    pub data: Vec<f32>,
}

/// The neck maps of one slot, computed once and cached; in the layout of the engine that made them, and of use to that engine only.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Rows and columns of the slot.
    pub size: (usize, usize),
    /// One map a level, finest first.
    pub levels: Vec<Vec<f32>>,
}

/// Number of lesion types of DeepLesion.
pub const TYPES: usize = 8;

/// DeepLesion's coarse types, in the order of its type codes 1 to 8.
pub const TYPE_NAMES: [&str; TYPES] = ["bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis"];

/// One box in one slot. Coordinates are slot pixels, pixel centres at whole numbers, in DeepLesion's convention
/// (RECIST end points grown by 5 px of the original image).
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// x1, y1, x2, y2.
    pub box_px: [f32; 4],
    /// Uncalibrated score, 0..1.
    pub score: f32,
    /// Softmax over [`TYPE_NAMES`].
    pub types: [f32; TYPES],
    /// RECIST long and short axis length in slot pixels as the network predicts them.
    pub axes_px: [f32; 2],
    /// Direction of the long axis in radians, 0..π, from +x towards +y.
    pub angle_rad: f32,
}

/// Index of the most probable type; `None` of none.
#[must_use]
pub fn likeliest(types: &[f32]) -> Option<usize> {
    (0..types.len()).max_by(|a, b| types[*a].total_cmp(&types[*b]))
}

/// Name of the most probable type.
#[must_use]
pub fn type_name(types: &[f32]) -> &'static str {
    likeliest(types).and_then(|t| TYPE_NAMES.get(t)).map_or("", |name| name)
}

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot run here (no device, library missing).
    #[error("engine {engine} cannot start: {reason}")]
    Unavailable {
        /// Name of the engine.
        engine: &'static str,
        /// Why.
        reason: String,
    },
    /// A computation failed.
    #[error("engine {engine} failed: {reason}")]
    Failed {
        /// Name of the engine.
        engine: &'static str,
        /// Why.
        reason: String,
    },
}

/// One way to run the network. The encoder runs once a slot; the heads run once a slot over the features of it and its neighbours.
pub trait Engine: Send {
    /// `tract`, `candle-cpu` or `candle-cuda`.
    fn name(&self) -> &'static str;
    /// Numeric format of the products: `f32`, `f16`, `q8_0`, `int8`.
    fn quantization(&self) -> &'static str;
    /// Number of neighbouring slots that [`Engine::heads`] takes (odd; the slot itself in the middle).
    fn context(&self) -> usize;
    /// Another one of its kind for another thread; weights are shared.
    fn fork(&self) -> Box<dyn Engine>;
    /// The neck maps of one slot.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the computation fails.
    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError>;
    /// Raw head maps per level ([`heads`] says what the channels mean) for the middle of `window`, lowest z first; `window.len() == context()`.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the computation fails.
    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError>;
}
