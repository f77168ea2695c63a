//! Which files a person means who names files and folders.

use std::path::{Path, PathBuf};

/// Adds the files at or below `path` to `files`; a pipe, a socket or a device goes to `refused` with the reason, since reading it may never end.
///
/// # Errors
/// A folder that cannot be read.
pub fn find(path: &Path, files: &mut Vec<PathBuf>, refused: &mut Vec<String>) -> std::io::Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_dir() {
        sort_out(path.to_owned(), kind, files, refused);
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find(&entry.path(), files, refused)?;
        } else if !kind.is_symlink() {
            // Links are not followed: a folder that holds itself would never end.
            sort_out(entry.path(), kind, files, refused);
        }
    }
    Ok(())
}

fn sort_out(path: PathBuf, kind: std::fs::FileType, files: &mut Vec<PathBuf>, refused: &mut Vec<String>) {
    if kind.is_file() {
        files.push(path);
    } else {
        refused.push(format!("{}: not a file but a pipe, a socket or a device", path.display()));
    }
}
