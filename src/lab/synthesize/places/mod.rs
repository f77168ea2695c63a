//! Where lesions may lie: tissue on a coarse raster of a slice, and how often radiologists mark lesions of a type there.

pub mod density;
pub mod raster;
pub mod site;
