//! The network, its engines, and the boxes of one slot. Knows nothing of DICOM.

/// One slot as the network sees it: three windows of one plane, CHW, values 0..1.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotInput {
    /// Rows; a multiple of 32.
    pub height: usize,
    /// Columns; a multiple of 32.
    pub width: usize,
    /// `3 * height * width` values, channel by channel.
    pub data: Vec<f32>,
}

/// A dense float map, channel-first.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `channels * height * width` values.
    pub data: Vec<f32>,
}

/// The neck maps of one slot, one per level (strides 4, 8, 16): computed once a slot and cached.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Finest level first.
    pub levels: Vec<Map>,
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
    /// Number of neighbouring slots that [`Engine::heads`] takes (odd; the slot itself in the middle).
    fn context(&self) -> usize;
    /// The neck maps of one slot.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the computation fails.
    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError>;
    /// Raw head maps per level (see `heads.rs` for the channels) for the middle of `window`; `window.len() == context()`.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the computation fails.
    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError>;
}
