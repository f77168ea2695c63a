//! What is sent: CT Image Storage, 512 × 512 × 16 bit, Explicit VR Little Endian, made of the sample's slices.

use std::path::{Path, PathBuf};

use dicom_core::value::PrimitiveValue;
use dicom_core::{DataElement, VR, dicom_value};
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, open_file};

use crate::demo;
use crate::error::{Class, Failure};
use crate::lab::synthesize::dicom_out::{SeriesFacts, uid, write};
use crate::series::header;
use crate::volume::pixels;

/// Writes `count` slices to `dir`, in as many series of their own as there are `series`, one after the other; the files by series.
///
/// They are localizers by Image Type: our appliance stores, reads and publishes them as it does every object, and finds that there is nothing to
/// analyse, so that what is measured is receiving. To the other receivers that value means nothing.
///
/// # Errors
/// [`Class::Io`] with the path.
pub fn write_all(dir: &Path, count: usize, series: usize) -> Result<Vec<Vec<PathBuf>>, Failure> {
    let io = |path: &Path, e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    std::fs::create_dir_all(dir).map_err(|e| io(dir, &e))?;
    let templates = templates(&dir.join("templates"), count)?;
    let mut written: Vec<Vec<PathBuf>> = vec![Vec::new(); series];
    let mut templates = templates.into_iter().cycle();
    for n in 0..count {
        let lane = n * series / count.max(1);
        let Some(mut object) = templates.next() else { return Err(Failure::new(Class::Internal, "the sample is empty")) };
        let sop = uid(&["bench", "object", &n.to_string()]);
        for (tag, value) in [
            (tags::STUDY_INSTANCE_UID, uid(&["bench", "study", &lane.to_string()])),
            (tags::SERIES_INSTANCE_UID, uid(&["bench", "series", &lane.to_string()])),
            (tags::SOP_INSTANCE_UID, sop.clone()),
        ] {
            object.put(DataElement::new(tag, VR::UI, PrimitiveValue::from(value)));
        }
        object.put(DataElement::new(tags::INSTANCE_NUMBER, VR::IS, PrimitiveValue::from(n.to_string())));
        object.put(DataElement::new(tags::IMAGE_TYPE, VR::CS, dicom_value!(Strs, ["DERIVED", "PRIMARY", "LOCALIZER"])));
        object.meta_mut().media_storage_sop_instance_uid = sop;
        object.meta_mut().update_information_group_length();
        let path = dir.join(format!("{n:05}.dcm"));
        object.write_to_file(&path).map_err(|e| io(&path, &e))?;
        written[lane].push(path);
    }
    Ok(written)
}

/// The sample's slices, uncompressed, at most `most`.
fn templates(dir: &Path, most: usize) -> Result<Vec<DefaultDicomObject>, Failure> {
    let io = |path: &Path, e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    std::fs::create_dir_all(dir).map_err(|e| io(dir, &e))?;
    let facts = SeriesFacts {
        patient_id: "BENCH".into(),
        study_uid: uid(&["bench"]),
        series_uid: uid(&["bench"]),
        frame_uid: uid(&["bench", "frame"]),
        spacing_mm: [0.7, 0.7],
        thickness_mm: 2.0,
    };
    let mut all = Vec::new();
    for (n, (name, bytes)) in demo::sample().map_err(|e| io(dir, &e))?.into_iter().take(most).enumerate() {
        let path = dir.join("slice.dcm");
        std::fs::write(&path, bytes).map_err(|e| io(&path, &e))?;
        let slice = header::read(&path).map_err(|e| Failure::new(Class::Internal, format!("sample {name}: {e}")))?;
        let image = pixels::decode_slice(&slice).map_err(|e| Failure::new(Class::Internal, format!("sample {name}: {e}")))?;
        write(&path, &facts, &uid(&["bench", "template"]), n, 2.0 * n as f64, &image)?;
        all.push(open_file(&path).map_err(|e| io(&path, &e))?);
    }
    std::fs::remove_dir_all(dir).map_err(|e| io(dir, &e))?;
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::series::SliceHeader;
    use crate::series::eligibility::plan;

    #[test]
    fn objects_are_whole_slices_of_series_that_are_not_analysed() {
        let dir = tempfile::tempdir().unwrap();
        let files = write_all(dir.path(), 7, 2).unwrap();
        assert_eq!(files.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3]);
        let headers: Vec<_> = files.iter().flatten().map(|f| header::read(f).unwrap()).collect();
        let distinct = |key: fn(&SliceHeader) -> &String| headers.iter().map(key).collect::<std::collections::HashSet<_>>().len();
        assert_eq!((distinct(|h| &h.sop_instance_uid), distinct(|h| &h.series_instance_uid)), (7, 2));
        assert!(headers.iter().all(|h| h.rows == Some(512) && h.cols == Some(512)));
        assert!(std::fs::metadata(&files[0][0]).unwrap().len() > 512 * 512 * 2);
        assert_eq!(plan(&headers[..4]).unwrap_err().code, "localizer");
    }
}
