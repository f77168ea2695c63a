//! A part of the body, whatever its shape.

use super::blob::Blob;
use super::canvas::Canvas;
use super::tube::Tube;

/// One part.
pub enum Painter {
    /// An upright one.
    Blob(Blob),
    /// One along a line.
    Tube(Tube),
}

impl Painter {
    /// Onto what lies below it.
    pub fn paint(&self, canvas: &mut Canvas<'_>) {
        match self {
            Self::Blob(b) => b.paint(canvas),
            Self::Tube(t) => t.paint(canvas),
        }
    }
}
