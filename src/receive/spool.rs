//! The spool: `spool/<study>/<series>/<n>.dcm`, Part 10, data sets as received. Names are ours: truncated SHA-256 of the UIDs, so that no name of a
//! peer reaches the file system and a repeat finds its first copy. An object is visible under its final name only when it is whole and synced; how one sync
//! is enough for that says [`spare`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dicom_object::meta::FileMetaTableBuilder;

use super::StoredObject;
use super::commitment::{Failure, Reference};
use super::incoming::Incoming;
use super::peek::{PREFIX_BYTES, identifiers};
use super::peers::Priority;
use super::place::{self, SUFFIX, name};
use super::spare::{self, PREAMBLE_BYTES, Spares};
use super::traffic::{REMEMBERED, Traffic};

/// Folder of objects under way; at start what is whole is taken out of it and the rest removed.
const INCOMING: &str = "incoming";
/// Filled spares hold no more than this part of what is free above the reserve.
const SHARE_OF_ROOM: u64 = 16;
/// And there are no more of them.
const MOST_FILLED: u64 = 1024;
/// A filled spare whose length is off by less than this part of the usual one stays.
const NEAR: u64 = 8;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made or written.
    #[error("{path}: {source}; check [state] dir, its owner and the disk")]
    Unusable {
        /// Which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The spool folder.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    reserve_bytes: u64,
    spares: Spares,
    traffic: Traffic,
}

impl Spool {
    /// Makes the folder where it is not there, puts in its place or removes what a crash left under way, tries a write.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`].
    pub fn open(dir: &Path, reserve_bytes: u64) -> Result<Self, SpoolError> {
        let incoming = dir.join(INCOMING);
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Unusable { path, source }
        };
        fs::create_dir_all(&incoming).map_err(unusable(&incoming))?;
        spare::recover(&incoming, |path| adopt(dir, path)).map_err(|(path, source)| SpoolError::Unusable { path, source })?;
        let probe = incoming.join("probe");
        fs::write(&probe, b"probe").and_then(|()| fs::remove_file(&probe)).map_err(unusable(&probe))?;
        Ok(Self { dir: dir.to_owned(), reserve_bytes, spares: Spares::new(incoming), traffic: Traffic::default() })
    }

    /// Free bytes of the file system; `u64::MAX` where that cannot be told.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        free_bytes(&self.dir)
    }

    /// Begins an object.
    ///
    /// # Errors
    /// The system's, [`io::ErrorKind::StorageFull`] below the reserve.
    pub fn begin(&self, sop_class: &str, sop_instance: &str, transfer_syntax: &str, calling_ae: &str) -> io::Result<Incoming<'_>> {
        if self.free_bytes() < self.reserve_bytes && (self.spares.give_back(|_| false) == 0 || self.free_bytes() < self.reserve_bytes) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "below the reserve"));
        }
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(sop_class)
            .media_storage_sop_instance_uid(sop_instance)
            .transfer_syntax(transfer_syntax)
            .source_application_entity_title(calling_ae)
            .build()
            .map_err(io::Error::other)?;
        let mut head = b"DICM".to_vec();
        meta.write(&mut head).map_err(io::Error::other)?;
        Incoming::begin(&self.dir, &self.traffic, self.spares.take()?, &head)
    }

    /// Fills one spare more while nothing is received, objects have a usual length, and filled ones are few and hold less than `most` bytes and than a
    /// sixteenth of the room; whether it did.
    ///
    /// # Errors
    /// The system's.
    pub fn fill_spare(&self, most: u64) -> io::Result<bool> {
        let Some(length) = self.traffic.quiet().then(|| self.traffic.usual_length()).flatten() else { return Ok(false) };
        let near = |other: u64| other.abs_diff(length) <= length / NEAR;
        self.spares.give_back(near);
        let most = most.min(length * MOST_FILLED).min(self.free_bytes().saturating_sub(self.reserve_bytes) / SHARE_OF_ROOM);
        if self.spares.filled_bytes() + length > most {
            return Ok(false);
        }
        self.spares.fill(length).map(|()| true)
    }

    /// Takes the lengths of the series received last for those of the objects to come, so that spares are filled before the first of them.
    pub fn recall_lengths(&self) {
        let Some(last) = self.all_series().max_by_key(|s| fs::metadata(s).and_then(|m| m.modified()).ok()) else { return };
        let files = fs::read_dir(last).into_iter().flatten().flatten();
        files.filter_map(|e| e.metadata().ok()).take(REMEMBERED).for_each(|m| self.traffic.kept(m.len()));
    }

    /// Where an object is, or will be.
    #[must_use]
    pub fn place(&self, study: &str, series: &str, sop_instance: &str) -> PathBuf {
        place::place(&self.dir, study, series, sop_instance)
    }

    /// All whole objects, for start-up; what is not ours is named in the log and left alone.
    #[must_use]
    pub fn objects(&self) -> Vec<StoredObject> {
        in_order(self.all_series().flat_map(|series| whole(&series)).collect())
    }

    /// The whole objects of one series.
    #[must_use]
    pub fn series(&self, study: &str, series: &str) -> Vec<StoredObject> {
        in_order(whole(&self.dir.join(name(study)).join(name(series))))
    }

    /// Which objects are in the spool, whole: one entry a reference, `None` where it is.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn committed(&self, references: &[Reference]) -> io::Result<Vec<Option<Failure>>> {
        let mut wanted: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, reference) in references.iter().enumerate() {
            wanted.entry(format!("{}.{SUFFIX}", name(&reference.instance))).or_default().push(i);
        }
        let mut verdicts = vec![Some(Failure::NoSuchInstance); references.len()];
        fs::read_dir(&self.dir)?;
        for series in self.all_series() {
            for entry in fs::read_dir(series).into_iter().flatten().flatten() {
                let Some(which) = entry.file_name().to_str().and_then(|n| wanted.get(n)) else { continue };
                let Some(object) = recover(&entry.path()) else { continue };
                for i in which.iter().filter(|i| references[**i].instance == object.sop_instance_uid) {
                    let same = references[*i].class == object.sop_class_uid;
                    verdicts[*i] = (!same).then_some(Failure::ClassConflict);
                }
            }
        }
        Ok(verdicts)
    }

    /// Bytes in the spool.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files =
            |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum::<u64>();
        self.all_series().map(|series| files(&series)).sum()
    }

    /// The folders of all series.
    fn all_series(&self) -> impl Iterator<Item = PathBuf> {
        folders(&self.dir).into_iter().flat_map(|study| folders(&study))
    }

    /// Removes a series.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_series(&self, study: &str, series: &str) -> io::Result<()> {
        let study = self.dir.join(name(study));
        fs::remove_dir_all(study.join(name(series)))?;
        // Holds another series: stays.
        let _ = fs::remove_dir(study);
        Ok(())
    }
}

/// Free bytes of the file system that holds `path`; `u64::MAX` where that cannot be told.
#[must_use]
pub fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// The whole objects of one folder.
fn whole(series: &Path) -> Vec<StoredObject> {
    let mut found = Vec::new();
    for entry in fs::read_dir(series).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = path.extension().is_some_and(|e| e == SUFFIX) && !path.to_string_lossy().contains('~');
        if ours {
            match recover(&path) {
                Some(object) => found.push(object),
                None => log::warn!("spool foreign file={}", path.display()),
            }
        }
    }
    found
}

fn in_order(mut objects: Vec<StoredObject>) -> Vec<StoredObject> {
    objects.sort_by(|a, b| a.received_at.cmp(&b.received_at).then_with(|| a.path.cmp(&b.path)));
    objects
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()) && e.file_name() != INCOMING).map(|e| e.path()).collect()
}

/// Moves a whole object, whose rename was lost with the power, to where it belongs.
fn adopt(dir: &Path, path: &Path) -> io::Result<()> {
    let Some(object) = recover(path) else { return Ok(()) };
    let to = place::place(dir, &object.study_instance_uid, &object.series_instance_uid, &object.sop_instance_uid);
    let kept = place::put_in_place(path, to)?;
    log::info!("spool adopted object={kept:?}");
    Ok(())
}

fn recover(path: &Path) -> Option<StoredObject> {
    let file = File::open(path).ok()?;
    let written_at = file.metadata().ok()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut reader = BufReader::new(file);
    let mut preamble = [0; PREAMBLE_BYTES];
    reader.read_exact(&mut preamble).ok()?;
    let received_at = spare::received_at(&preamble).unwrap_or(written_at);
    let meta = dicom_object::FileMetaTable::from_reader(&mut reader).ok()?;
    let mut prefix = Vec::new();
    reader.take(PREFIX_BYTES as u64).read_to_end(&mut prefix).ok()?;
    let clean = |t: &str| t.trim_end_matches(['\0', ' ']).to_owned();
    let transfer_syntax_uid = clean(&meta.transfer_syntax);
    let ids = identifiers(&prefix, &transfer_syntax_uid);
    (!ids.series_instance.is_empty()).then(|| StoredObject {
        path: path.to_owned(),
        study_instance_uid: ids.study_instance,
        series_instance_uid: ids.series_instance,
        sop_instance_uid: clean(&meta.media_storage_sop_instance_uid),
        sop_class_uid: clean(&meta.media_storage_sop_class_uid),
        transfer_syntax_uid,
        calling_ae: meta.source_application_entity_title.as_deref().map(clean).unwrap_or_default(),
        priority: Priority::default(),
        association: 0,
        received_at,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::super::place::Kept;
    use super::*;

    /// Objects under way and filled spares; the other spares are empty.
    fn under_way(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir.join(INCOMING)).unwrap().flatten();
        entries.filter(|e| e.metadata().unwrap().len() > 0).map(|e| e.path()).collect()
    }

    fn put(spool: &Spool, data: &[u8]) -> Kept {
        put_as(spool, data, "CT1")
    }

    fn put_as(spool: &Spool, data: &[u8], calling_ae: &str) -> Kept {
        let mut object = spool.begin("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", calling_ae).unwrap();
        object.write(data).unwrap();
        object.keep("1.1", "1.2", "1.2.3").unwrap()
    }

    #[test]
    fn repeats_are_recognised_and_conflicts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        assert!(matches!(put(&spool, b"one"), Kept::New(_)));
        assert_eq!(put(&spool, b"one"), Kept::Repeat);
        // The PACS forwards what the scanner has sent already.
        assert_eq!(put_as(&spool, b"one", "PACS"), Kept::Repeat);
        assert!(matches!(put(&spool, b"two"), Kept::Conflict(_)));
        assert_eq!(under_way(dir.path()), [] as [PathBuf; 0]);
    }

    /// A power cut between the sync and a rename that was not synced.
    #[test]
    fn a_lost_rename_is_made_up_for_and_a_torn_object_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        let series = [0x20, 0, 0x0e, 0, 4, 0, 0, 0, b'1', b'.', b'2', 0];
        let store = |instance: &str| {
            let mut object = spool.begin("1.2.840.10008.5.1.4.1.1.2", instance, "1.2.840.10008.1.2", "CT1").unwrap();
            object.write(&series).unwrap();
            object.write(&[7; 300_000]).unwrap();
            let Kept::New(path) = object.keep("", "1.2", instance).unwrap() else { panic!("new") };
            path
        };
        let kept: Vec<PathBuf> = ["1.2.3", "1.2.4", "1.2.5"].iter().map(|i| store(i)).collect();
        let lost = |n: usize| dir.path().join(INCOMING).join(format!("{}.part", 900 + n));
        (0..3).for_each(|n| fs::rename(&kept[n], lost(n)).unwrap());
        let whole = fs::read(lost(0)).unwrap();
        fs::write(lost(1), &whole[..whole.len() - 1]).unwrap();
        let mut torn = fs::read(lost(2)).unwrap();
        torn[200_000] = 0;
        fs::write(lost(2), torn).unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        assert_eq!(spool.objects().iter().map(|o| o.sop_instance_uid.as_str()).collect::<Vec<_>>(), ["1.2.3"]);
        assert_eq!(fs::read(&kept[0]).unwrap(), whole);
        assert_eq!(fs::read_dir(dir.path().join(INCOMING)).unwrap().count(), 0);
    }

    fn begun<'a>(spool: &'a Spool, instance: &str) -> Incoming<'a> {
        spool.begin("1.2.840.10008.5.1.4.1.1.2", instance, "1.2.840.10008.1.2", "CT1").unwrap()
    }

    const SERIES: [u8; 12] = [0x20, 0, 0x0e, 0, 4, 0, 0, 0, b'1', b'.', b'2', 0];

    #[test]
    fn what_is_written_over_zeros_is_what_is_written_into_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        let store = |instance: &str, length: usize| {
            let mut object = begun(&spool, instance);
            object.write(&SERIES).unwrap();
            object.write(&vec![7; length]).unwrap();
            let Kept::New(path) = object.keep("1.1", "1.2", instance).unwrap() else { panic!("new") };
            fs::read(path).unwrap()
        };
        for (n, length) in [4_000, 199_000, 199_999, 200_000, 200_001, 500_000].into_iter().enumerate() {
            let (a, b) = (format!("1.2.3.{n}"), format!("1.2.4.{n}"));
            let plain = store(&a, length);
            spool.spares.fill(200_704).unwrap();
            let over = store(&b, length);
            assert_eq!(spool.spares.filled_bytes(), 0, "the filled one is taken first");
            // But for the UID, the checksum over it, and the time.
            let same = |i: usize| (28..40).contains(&i) || plain[i] == over[i] || (plain[i] == b'3' && over[i] == b'4');
            assert!(plain.len() == over.len() && (0..plain.len()).all(same), "{length}");
        }
        assert_eq!(spool.objects().len(), 12);
    }

    /// A sync of data only may lose the file's own time with the power.
    #[test]
    fn the_time_of_an_object_is_in_its_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        let mut object = begun(&spool, "1.2.3");
        object.write(&SERIES).unwrap();
        let Kept::New(path) = object.keep("", "1.2", "1.2.3").unwrap() else { panic!("new") };
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let age = || spool.objects()[0].received_at.elapsed().unwrap().as_secs();
        assert!(age() < 600, "{}", age());
        // Versions that did not write it.
        File::options().write(true).open(&path).unwrap().write_all_at(&[0; 8], 32).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(spool.objects()[0].received_at, long_ago);
    }

    #[test]
    fn of_filled_spares_a_crash_leaves_only_what_was_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        (0..3).for_each(|_| spool.spares.fill(204_800).unwrap());
        let mut half = begun(&spool, "1.2.3");
        half.write(&SERIES).unwrap();
        half.write(&[7; 140_000]).unwrap();
        std::mem::forget(half);
        let mut whole = begun(&spool, "1.2.4");
        whole.write(&SERIES).unwrap();
        whole.write(&[7; 140_000]).unwrap();
        let Kept::New(path) = whole.keep("", "1.2", "1.2.4").unwrap() else { panic!("new") };
        // The rename was lost.
        fs::rename(&path, dir.path().join(INCOMING).join("900.part")).unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        assert_eq!(spool.objects().iter().map(|o| o.sop_instance_uid.as_str()).collect::<Vec<_>>(), ["1.2.4"]);
        assert_eq!(fs::read_dir(dir.path().join(INCOMING)).unwrap().count(), 0);
    }

    #[test]
    fn spares_are_filled_in_a_pause_and_given_back_below_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 0).unwrap();
        let store = |spool: &Spool, instance: &str, length: usize| {
            let mut object = begun(spool, instance);
            object.write(&vec![7; length]).unwrap();
            object.keep("1.1", "1.2", instance).unwrap();
        };
        let pause = || std::thread::sleep(std::time::Duration::from_millis(1100));
        spool.recall_lengths();
        assert_eq!(spool.traffic.usual_length(), None, "nothing is there");
        (0..4).for_each(|n| store(&spool, &format!("1.2.{n}"), 50_000));
        let most = 3 * spool.traffic.usual_length().unwrap();
        assert!(!spool.fill_spare(most).unwrap(), "an object just ended");
        pause();
        let object = begun(&spool, "1.3");
        assert!(!spool.fill_spare(most).unwrap(), "an object is under way");
        drop(object);
        pause();
        assert_eq!([(); 5].map(|()| spool.fill_spare(most).unwrap()), [true, true, true, false, false]);
        assert_eq!(spool.spares.filled_bytes(), most);
        // After a start.
        let again = Spool::open(&dir.path().join("again"), 0).unwrap();
        fs::rename(dir.path().join(place::name("1.1")), dir.path().join("again").join(place::name("1.1"))).unwrap();
        again.recall_lengths();
        assert_eq!(again.traffic.usual_length(), spool.traffic.usual_length());
        assert!(again.fill_spare(most).unwrap());
        // Another scanner.
        (0..64).for_each(|_| spool.traffic.kept(20_000));
        assert!(spool.fill_spare(most).unwrap());
        assert_eq!(spool.spares.filled_bytes(), 20_000);
        assert_eq!(under_way(dir.path()).len(), 1);
        spool.reserve_bytes = u64::MAX - 1;
        assert!(spool.begin("1.2", "1.5", "1.2.840.10008.1.2.1", "CT1").is_err());
        assert_eq!(under_way(dir.path()), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_is_committed_is_there_whole_and_of_its_class() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        let ct = "1.2.840.10008.5.1.4.1.1.2";
        let mut object = spool.begin(ct, "1.2.3", "1.2.840.10008.1.2", "CT1").unwrap();
        object.write(&[0x20, 0, 0x0e, 0, 4, 0, 0, 0, b'1', b'.', b'2', 0]).unwrap();
        object.keep("1.1", "1.2", "1.2.3").unwrap();
        std::mem::forget(spool.begin(ct, "1.2.4", "1.2.840.10008.1.2", "CT1").unwrap());
        let ask = |class: &str, instance: &str| Reference { class: class.into(), instance: instance.into() };
        let verdicts = spool.committed(&[ask(ct, "1.2.3"), ask(ct, "1.2.4"), ask("1.2", "1.2.3"), ask(ct, "1.2.3")]).unwrap();
        assert_eq!(verdicts, [None, Some(Failure::NoSuchInstance), Some(Failure::ClassConflict), None]);
    }

    #[test]
    fn what_is_dropped_or_left_by_a_crash_is_not_visible() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 0).unwrap();
        let mut object = spool.begin("1.2", "1.2.3", "1.2.840.10008.1.2.1", "CT1").unwrap();
        object.write(b"half").unwrap();
        std::mem::forget(object);
        assert!(fs::read_dir(dir.path().join(INCOMING)).unwrap().count() >= 1);
        let spool = Spool::open(dir.path(), 0).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(INCOMING)).unwrap().count(), 0);
        assert!(spool.objects().is_empty());
    }

    #[test]
    fn below_the_reserve_nothing_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), u64::MAX - 1).unwrap();
        assert_eq!(spool.begin("1.2", "1.2.3", "1.2.840.10008.1.2.1", "CT1").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Spool::open(&file.path().join("state"), 0).unwrap_err().to_string();
        assert!(error.contains("state") && error.contains("[state] dir"), "{error}");
    }
}
