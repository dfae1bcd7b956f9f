//! The binaries of Coracle's fuzz targets; their bodies are in `crates/fuzz`.
//!
//! No single allocation may be large: a decoder that reserves what a few bytes announce is found out.

use std::alloc::{GlobalAlloc, Layout, System};

pub use coracle_fuzz::run;
pub use libfuzzer_sys::fuzz_target;

/// Far above what any input needs that fits into libFuzzer's 4 KiB, and what stores set aside for themselves.
const ALLOCATION_BYTES_MAX: usize = 48 << 20;

struct Limited;

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: everything is passed on to the system's allocator; null is an allocator's way to say that it fails.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ALLOCATION_BYTES_MAX {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static LIMITED: Limited = Limited;
