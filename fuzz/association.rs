//! Any bytes as a connection: served to its end by the code that serves peers, and held to what `tests/hostile.rs` asserts.
#![no_main]

mod allocation;

#[path = "../tests/common/mutate.rs"]
mod mutate;
#[path = "../tests/common/recorded.rs"]
mod recorded;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use mutate::Case;
use recorded::{Door, Recorded};

/// A fresh spool after so many connections: folders stay small, and so does what one input can owe to another.
const A_DOOR: usize = 1000;

thread_local! {
    static DOOR: RefCell<(usize, Door)> = RefCell::new((0, Door::new()));
}

fuzz_target!(|bytes: &[u8]| {
    let case = Case::parse(bytes);
    DOOR.with_borrow_mut(|(served, door)| {
        *served += 1;
        if *served % A_DOOR == 0 {
            *door = Door::new();
        }
        let answered = door.serve(Recorded::new(&case.input, case.most, case.end).quiet(case.quiet));
        for object in &answered.stored {
            // Either is an answer; a panic in there is caught by the code itself.
            let _ = lesionwatch::series::header::slices(&object.path);
        }
        door.forget(&answered.stored);
    });
});
