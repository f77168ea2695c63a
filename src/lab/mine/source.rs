//! A file that may hold measurements, told by its first bytes, → its [`Document`]. The only reading of measurement objects from disk.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attribute::{items, moment, referenced, text};
use super::mark::{Document, Kind, LeftOut, Reason, Refusal};
use super::{aim, export_table, presentation_state, structured_report};
use crate::series::part10;

/// SOP classes of structured reports and of softcopy presentation states begin with these (PS3.4 B.5).
const STRUCTURED_REPORTS: &str = "1.2.840.10008.5.1.4.1.1.88.";
const PRESENTATION_STATES: &str = "1.2.840.10008.5.1.4.1.1.11.";
/// A text larger than this is no export of bookmarks, bytes.
const MOST_TEXT_BYTES: u64 = 256 * 1024 * 1024;

/// Reads one file; whatever it is, a document comes back, if only to say why it holds nothing.
#[must_use]
pub fn read(path: &Path) -> Document {
    // The parsers are not ours: whatever they do on a damaged file is an error of that file.
    catch_unwind(AssertUnwindSafe(|| read_unguarded(path)))
        .unwrap_or_else(|_| Document::refused(path.to_owned(), Reason::Unreadable, "the parser failed on it"))
}

fn read_unguarded(path: &Path) -> Document {
    let refused = |text: String| Document::refused(path.to_owned(), Reason::Unreadable, text);
    let mut head = Vec::new();
    let opened = std::fs::File::open(path).and_then(|mut file| file.by_ref().take(132).read_to_end(&mut head));
    if let Err(e) = opened {
        return refused(e.to_string());
    }
    if head.get(128..132) == Some(b"DICM") {
        return dicom(path);
    }
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !matches!(extension.as_str(), "xml" | "json" | "csv") {
        return refused("neither DICOM nor .xml, .json or .csv".into());
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST_TEXT_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(e) => return refused(e.to_string()),
        Ok(n) if n as u64 > MOST_TEXT_BYTES => return refused(format!("larger than {} MiB", MOST_TEXT_BYTES >> 20)),
        Ok(_) => {}
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return refused("text, but not UTF-8".into()) };
    match extension.as_str() {
        "xml" => aim::read(path, text),
        "json" => export_table::read_json(path, text),
        _ => export_table::read_csv(path, text),
    }
}

fn dicom(path: &Path) -> Document {
    // Of an image that lies among the reports nothing beyond its header is read.
    let object = match part10::open(path, Some(tags::PIXEL_DATA)) {
        Ok(object) => object,
        Err(e) => return Document::refused(path.to_owned(), Reason::Unreadable, e),
    };
    let class = text(&object, tags::SOP_CLASS_UID).unwrap_or_default();
    let (kind, moment) = if class.starts_with(STRUCTURED_REPORTS) {
        (Kind::StructuredReport, moment(&object, tags::CONTENT_DATE, tags::CONTENT_TIME))
    } else if class.starts_with(PRESENTATION_STATES) {
        (Kind::PresentationState, moment(&object, tags::PRESENTATION_CREATION_DATE, tags::PRESENTATION_CREATION_TIME))
    } else if object.get(tags::ROWS).is_some() {
        // Archives are given as they are, reports among images: those are counted, and nothing more.
        return Document { kind: Kind::Image, left_out: Vec::new(), ..Document::refused(path.to_owned(), Reason::NotMeasurements, "") };
    } else {
        let modality = text(&object, tags::MODALITY).unwrap_or_default();
        let text = format!("{modality} object of SOP class {class}: neither structured report nor presentation state");
        return Document::refused(path.to_owned(), Reason::NotMeasurements, text);
    };
    let Some(uid) = text(&object, tags::SOP_INSTANCE_UID) else {
        return Document::refused(path.to_owned(), Reason::Unreadable, "SOP Instance UID (0008,0018) is missing or empty");
    };
    let (marks, left_out) = match kind {
        Kind::StructuredReport => structured_report::read(&object, &moment),
        _ => presentation_state::read(&object, &moment),
    };
    let mut document = Document { path: path.to_owned(), kind, uid, moment, predecessors: predecessors(&object), marks, left_out };
    if document.marks.is_empty() && document.left_out.is_empty() {
        let refusal = Refusal::new(Reason::NotMeasurements, "no measurement group and no line in it");
        document.left_out.push(LeftOut { item: String::new(), refusal });
    }
    document
}

/// Documents that this one replaces (PS3.3 C.17.2).
fn predecessors(object: &InMemDicomObject) -> Vec<String> {
    items(object, tags::PREDECESSOR_DOCUMENTS_SEQUENCE)
        .iter()
        .flat_map(|study| items(study, tags::REFERENCED_SERIES_SEQUENCE))
        .flat_map(|series| referenced(series, tags::REFERENCED_SOP_SEQUENCE))
        .collect()
}
