//! An allocator that ends the process where an input of a few kilobytes asks for a large piece of memory: libFuzzer then keeps that input, whereas its own
//! limit on memory names a later one.

use std::alloc::{GlobalAlloc, Layout, System};

/// Inputs are kilobytes, and the receiver's buffers are below a mebibyte.
const MOST_BYTES: usize = 64 << 20;

struct Bounded;

// SAFETY: every call goes to the system's allocator with the layout it came with.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        bound(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        bound(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        bound(new_size);
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn bound(bytes: usize) {
    if bytes > MOST_BYTES {
        eprintln!("an allocation of {bytes} bytes");
        std::process::abort();
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;
