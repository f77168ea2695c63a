//! Objects of a PACS as files: one folder for what holds marks, one a series for images, each file whole under its name or not there.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dicom_object::meta::FileMetaTableBuilder;

use super::pacs::Object;
use crate::receive::peek::is_uid;

/// A file under way; what is left of one is written anew.
const UNDER_WAY: &str = "part";
const SUFFIX: &str = "dcm";

/// The instances that `folder` holds.
pub fn there(folder: &Path) -> HashSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == SUFFIX));
    paths.filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect()
}

/// Where an instance is, or will be. UIDs that are none never come here: [`write`] refuses them.
pub fn place(folder: &Path, sop_instance: &str) -> PathBuf {
    folder.join(format!("{sop_instance}.{SUFFIX}"))
}

/// Writes one object as a Part 10 file.
///
/// # Errors
/// A sentence with the path.
pub fn write(folder: &Path, object: &Object) -> Result<(), String> {
    if !is_uid(&object.sop_instance) {
        return Err(format!(
            "SOP Instance UID {:?} is no UID: the object is not kept",
            object.sop_instance.chars().take(64).collect::<String>()
        ));
    }
    let path = place(folder, &object.sop_instance);
    let name = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM");
    FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(&object.sop_class)
        .media_storage_sop_instance_uid(&object.sop_instance)
        .transfer_syntax(&object.transfer_syntax)
        .build()
        .and_then(|meta| meta.write(&mut bytes))
        .map_err(|e| name(&e))?;
    bytes.extend_from_slice(&object.data_set);
    let part = path.with_extension(UNDER_WAY);
    let put = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(&part, &bytes)?;
        fs::rename(&part, &path)
    };
    put().map_err(|e| {
        // Half a file would only be in the way; that it cannot be removed either is told by the reason above.
        let _ = fs::remove_file(&part);
        name(&e)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(sop_instance: &str) -> Object {
        Object {
            sop_class: "1.2.840.10008.5.1.4.1.1.2".into(),
            sop_instance: sop_instance.into(),
            transfer_syntax: "1.2.840.10008.1.2".into(),
            data_set: vec![8, 0, 0x18, 0, 4, 0, 0, 0, b'1', b'.', b'2', 0],
        }
    }

    #[test]
    fn an_object_is_a_file_that_can_be_opened_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("series");
        write(&folder, &object("1.2")).unwrap();
        fs::write(folder.join("1.3.part"), b"half").unwrap();
        assert_eq!(there(&folder), HashSet::from(["1.2".to_owned()]));
        crate::series::part10::open(&place(&folder, "1.2"), None).unwrap();
    }

    #[test]
    fn a_uid_that_is_a_path_is_refused_and_a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &object("../../etc/passwd")).unwrap_err().contains("no UID"));
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(write(&dir.path().join("file"), &object("1.2")).unwrap_err().contains("file/1.2.dcm"));
    }
}
