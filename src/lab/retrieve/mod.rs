//! `lesionlab retrieve`: from a PACS, the objects that hold radiologists' marks and the CT round each mark, into folders that `mine` reads.
//!
//! Study by study: structured reports and presentation states are found by modality and retrieved; what they mark is read out of them with `mine`'s own
//! readers; the CT series of the study are looked through for the marked images, and those are retrieved with what lies within [`CONTEXT_MM`] of one.
//! What is there already is not asked for again, so that a run that was cut off, or last month's, goes on.

pub mod keep;
pub mod pacs;

use std::path::{Path, PathBuf};

use dicom_core::VR;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use self::pacs::{Pacs, PacsError};
use super::mine::images::Wanted;
use super::mine::{self, attribute, source};
use crate::error::{Class, Failure};
use crate::receive::peek::is_uid;

/// `mine` takes 30 mm of context on both sides; a slice more for what is between two.
const CONTEXT_MM: f64 = 36.0;
/// Instances asked for at once: a list of UIDs that any PACS takes (64 characters each).
const AT_ONCE: usize = 64;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// `AE@host:port`.
    pub peer: String,
    /// Our AE title.
    pub calling_ae: String,
    /// Modalities of what holds marks: SR, PR.
    pub modalities: Vec<String>,
    /// Study dates, as the standard writes a range (PS3.4 C.2.2.2.5); empty for all.
    pub dates: String,
    /// All slices of a series that holds a marked one, so that slices are counted and heights normalised as in the PACS.
    pub whole_series: bool,
    /// Folder: `objects` and `images` are made in it.
    pub out: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Studies that hold objects of the modalities.
    pub studies: usize,
    /// Objects that may hold marks, new ones and those that were there.
    pub objects: [usize; 2],
    /// Images, likewise.
    pub images: [usize; 2],
    /// Marked images that no CT series of their study holds.
    pub not_found: usize,
    /// What went wrong, study by study.
    pub faults: Vec<String>,
}

impl Summary {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} studies with measurement objects\n{} objects retrieved, {} were there\n{} images retrieved, {} were there\n",
            self.studies, self.objects[0], self.objects[1], self.images[0], self.images[1]
        );
        if self.not_found > 0 {
            text += &format!("{} marked images are in no CT series of their study\n", self.not_found);
        }
        for fault in &self.faults {
            text += &format!("not complete: {fault}\n");
        }
        text
    }
}

/// Retrieves. A study that fails is named and passed over.
///
/// # Errors
/// [`Class::Unavailable`] where the PACS cannot be reached or lists no studies, [`Class::Io`] where what came cannot be kept.
pub fn run(request: &Request) -> Result<Summary, Failure> {
    let unavailable = |e: PacsError| Failure::new(Class::Unavailable, e.to_string());
    let connect = || Pacs::connect(&request.peer, &request.calling_ae);
    let mut pacs = connect().map_err(unavailable)?;
    let studies = studies(&mut pacs, request).map_err(unavailable)?;
    let bar = mine::bar("{msg:10} {bar:40} {pos}/{len} studies  {elapsed} elapsed, {eta} to go", "retrieving", Some(studies.len()));
    let mut summary = Summary { studies: studies.len(), ..Summary::default() };
    for study in &studies {
        match one(&mut pacs, request, study, &mut summary) {
            Ok(()) => {}
            Err(PacsError::Store(reason)) => return Err(Failure::new(Class::Io, reason)),
            Err(refused @ PacsError::NotOffered { .. }) => return Err(unavailable(refused)),
            Err(e) => {
                summary.faults.push(format!("study {study}: {e}"));
                // What is left of the last answer may still be under way.
                pacs = connect().map_err(unavailable)?;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    pacs.release();
    Ok(summary)
}

/// UIDs of studies with objects of the modalities, in the PACS' order.
fn studies(pacs: &mut Pacs, request: &Request) -> Result<Vec<String>, PacsError> {
    let mut all: Vec<String> = Vec::new();
    for modality in &request.modalities {
        let keys = [
            (tags::STUDY_INSTANCE_UID, VR::UI, ""),
            (tags::STUDY_DATE, VR::DA, request.dates.as_str()),
            (tags::MODALITIES_IN_STUDY, VR::CS, modality.as_str()),
        ];
        for uid in pacs.find("STUDY", &keys)?.iter().filter_map(|s| uid(s, tags::STUDY_INSTANCE_UID)) {
            if !all.contains(&uid) {
                all.push(uid);
            }
        }
    }
    Ok(all)
}

fn one(pacs: &mut Pacs, request: &Request, study: &str, summary: &mut Summary) -> Result<(), PacsError> {
    let folder = request.out.join("objects");
    let mut documents = Vec::new();
    for modality in &request.modalities {
        for series in series(pacs, study, modality)? {
            let instances = instances(pacs, study, &series.uid)?;
            let uids: Vec<&str> = instances.iter().map(|i| i.uid.as_str()).collect();
            retrieve(pacs, [study, &series.uid], &uids, &folder, (&mut summary.objects, &mut summary.faults))?;
            documents.extend(uids.iter().map(|uid| keep::place(&folder, uid)).filter(|p| p.exists()).map(|p| source::read(&p)));
        }
    }
    let mut wanted = Wanted::of(&documents);
    if wanted.images.is_empty() && wanted.frames.is_empty() {
        return Ok(());
    }
    for series in series(pacs, study, "CT")? {
        let instances = instances(pacs, study, &series.uid)?;
        // Marks in space name a frame of reference; a PACS that does not tell a series' leaves only to take it.
        let in_space = !wanted.frames.is_empty() && series.frame.as_ref().is_none_or(|f| wanted.frames.contains_key(f));
        let whole = in_space || request.whole_series && instances.iter().any(|i| wanted.images.contains(&i.uid));
        let chosen = if whole { (0..instances.len()).collect() } else { near(&instances, &wanted) };
        let uids: Vec<&str> = chosen.iter().map(|i| instances[*i].uid.as_str()).collect();
        let folder = request.out.join("images").join(&series.uid);
        retrieve(pacs, [study, &series.uid], &uids, &folder, (&mut summary.images, &mut summary.faults))?;
        instances.iter().for_each(|i| _ = wanted.images.remove(&i.uid));
    }
    summary.not_found += wanted.images.len();
    Ok(())
}

/// Retrieves those of `instances` that are not in `folder`; counts new ones, those that were there, and what the PACS could not send.
fn retrieve(
    pacs: &mut Pacs,
    [study, series]: [&str; 2],
    instances: &[&str],
    folder: &Path,
    (counts, faults): (&mut [usize; 2], &mut Vec<String>),
) -> Result<(), PacsError> {
    let there = keep::there(folder);
    let missing: Vec<&str> = instances.iter().copied().filter(|uid| !there.contains(*uid)).collect();
    counts[1] += instances.len() - missing.len();
    for part in missing.chunks(AT_ONCE) {
        let failed = pacs.get(study, series, part, |object| {
            keep::write(folder, &object)?;
            counts[0] += 1;
            Ok(())
        })?;
        if failed > 0 {
            faults.push(format!("series {series}: the PACS could not send {failed} of {} objects", part.len()));
        }
    }
    Ok(())
}

/// A series as the PACS lists it.
struct Series {
    uid: String,
    /// Frame of Reference UID, where the PACS tells it.
    frame: Option<String>,
}

/// Series of one modality: some archives list others beside them.
fn series(pacs: &mut Pacs, study: &str, modality: &str) -> Result<Vec<Series>, PacsError> {
    let keys = [
        (tags::STUDY_INSTANCE_UID, VR::UI, study),
        (tags::SERIES_INSTANCE_UID, VR::UI, ""),
        (tags::MODALITY, VR::CS, modality),
        (tags::FRAME_OF_REFERENCE_UID, VR::UI, ""),
    ];
    let found = pacs.find("SERIES", &keys)?;
    let of_modality = found.iter().filter(|s| attribute::text(s, tags::MODALITY).is_none_or(|m| m == modality));
    let listed =
        |s: &InMemDicomObject| Some(Series { uid: uid(s, tags::SERIES_INSTANCE_UID)?, frame: uid(s, tags::FRAME_OF_REFERENCE_UID) });
    Ok(of_modality.filter_map(listed).collect())
}

/// An instance as the PACS lists it.
struct Instance {
    uid: String,
    /// Image Position (Patient), mm, where the PACS tells it.
    position_mm: Option<[f64; 3]>,
}

fn instances(pacs: &mut Pacs, study: &str, series: &str) -> Result<Vec<Instance>, PacsError> {
    let keys = [
        (tags::STUDY_INSTANCE_UID, VR::UI, study),
        (tags::SERIES_INSTANCE_UID, VR::UI, series),
        (tags::SOP_INSTANCE_UID, VR::UI, ""),
        (tags::IMAGE_POSITION_PATIENT, VR::DS, ""),
    ];
    let found = pacs.find("IMAGE", &keys)?;
    let listed = |i: &InMemDicomObject| {
        Some(Instance { uid: uid(i, tags::SOP_INSTANCE_UID)?, position_mm: attribute::vector(i, tags::IMAGE_POSITION_PATIENT) })
    };
    Ok(found.iter().filter_map(listed).collect())
}

fn uid(set: &InMemDicomObject, tag: dicom_core::Tag) -> Option<String> {
    attribute::text(set, tag).filter(|u| is_uid(u))
}

/// Places of the marked images and of what lies within [`CONTEXT_MM`] of one; of all, where the PACS does not tell positions.
fn near(instances: &[Instance], wanted: &Wanted) -> Vec<usize> {
    let marked: Vec<&Instance> = instances.iter().filter(|i| wanted.images.contains(&i.uid)).collect();
    if marked.is_empty() {
        return Vec::new();
    }
    let distance_mm = |a: &Instance, b: &Instance| {
        let (a, b) = (a.position_mm?, b.position_mm?);
        Some(a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt())
    };
    let is_near = |i: &Instance| marked.iter().any(|m| distance_mm(i, m).is_none_or(|d| d <= CONTEXT_MM));
    (0..instances.len()).filter(|i| is_near(&instances[*i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(position: impl Fn(usize) -> Option<[f64; 3]>) -> Vec<Instance> {
        (0..100).map(|n| Instance { uid: format!("1.{n}"), position_mm: position(n) }).collect()
    }

    #[test]
    fn context_is_taken_by_distance_and_all_of_it_where_there_is_none() {
        let wanted = Wanted { images: ["1.50".to_owned()].into(), ..Wanted::default() };
        // A tilted stack: neighbours lie 5 mm along its normal.
        let at = |n: usize| Some([10.0, 3.0 * n as f64, 4.0 * n as f64]);
        assert_eq!(near(&stack(at), &wanted), (43..=57).collect::<Vec<_>>());
        assert_eq!(near(&stack(|_| None), &wanted).len(), 100);
        assert_eq!(near(&stack(at), &Wanted::default()), [0usize; 0]);
    }
}
