//! A folder of CT as the network's inputs, slot by slot: what calibration and benchmarks run over.

use std::path::Path;

use rayon::prelude::*;

use crate::detect::SlotInput;
use crate::error::{Class, Failure};
use crate::series::eligibility::{self, StackPlan};
use crate::series::header;
use crate::volume::HuImage;
use crate::volume::body::{PixelBox, body_box};
use crate::volume::frame::{Frame, ImageGrid, interpolate, resample};
use crate::volume::pixels::decode_slice;
use crate::volume::slots::{self, SlotGrid};
use crate::volume::window::slot_input;

/// A series on the detector's grid; slots are made when they are asked for.
pub struct SeriesSlots {
    plan: StackPlan,
    frame: Frame,
    grid: SlotGrid,
}

impl SeriesSlots {
    /// Reads the headers of a folder, and the pixels of every slice where the frame hangs on the body.
    ///
    /// # Errors
    /// [`Class::Io`]; [`Class::Data`] where the folder is no series that would be analysed, with the reason.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let entries = std::fs::read_dir(folder).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", folder.display())))?;
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        let headers: Vec<_> = paths.par_iter().filter_map(|path| header::read(path).ok()).collect();
        let plan = eligibility::plan(&headers).map_err(|r| Failure::new(Class::Data, format!("{}: {}", folder.display(), r.text)))?;
        let image = ImageGrid::of(&plan.stack.slices[0]);
        let mut body = None;
        if image.needs_body() {
            let boxes = (0..plan.stack.slices.len()).into_par_iter().map(|i| decoded(&plan, i).map(|image| body_box(&image)));
            body = boxes.collect::<Result<Vec<PixelBox>, _>>()?.into_iter().reduce(PixelBox::union);
        }
        let grid = slots::grid(&plan.stack.positions_mm, plan.stack.spacing_mm);
        Ok(Self { frame: Frame::choose(image, body), plan, grid })
    }

    /// Number of slots.
    #[must_use]
    pub fn count(&self) -> usize {
        self.grid.slots.len()
    }

    /// Indices of the slots that the heads of slot `i` read.
    #[must_use]
    pub fn window(&self, i: usize, context: usize) -> Vec<usize> {
        self.grid.window(i, context)
    }

    /// Slot `i`.
    ///
    /// # Errors
    /// [`Class::Data`] where a slice does not decode.
    pub fn slot(&self, i: usize) -> Result<SlotInput, Failure> {
        let at = self.grid.slots[i];
        let plane = |slice| decoded(&self.plan, slice).map(|image| resample(&image, &self.frame));
        let lower = plane(at.lower)?;
        let plane = if at.weight == 0.0 { lower } else { interpolate(&lower, &plane(at.upper)?, at.weight) };
        Ok(slot_input(&plane))
    }
}

fn decoded(plan: &StackPlan, i: usize) -> Result<HuImage, Failure> {
    let slice = &plan.stack.slices[i];
    decode_slice(slice).map_err(|e| Failure::new(Class::Data, format!("{}: {e}", slice.path.display())))
}
