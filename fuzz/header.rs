//! Any bytes as a file of the spool: its header is read as the analysis does.
#![no_main]

mod allocation;

use std::cell::RefCell;
use std::io::{Seek, Write};

use libfuzzer_sys::fuzz_target;

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> = RefCell::new({
        let memory = std::path::Path::new("/dev/shm");
        if memory.is_dir() { tempfile::NamedTempFile::new_in(memory) } else { tempfile::NamedTempFile::new() }.expect("a file")
    });
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow_mut(|file| {
        file.as_file().set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(bytes)).expect("written");
        let _ = lesionwatch::series::header::slices(file.path());
    });
});
