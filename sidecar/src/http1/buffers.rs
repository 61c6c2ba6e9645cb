//! What connections borrow while they work: read and write buffers and header maps, kept per thread.
//!
//! An idle connection holds none of them, so ten thousand idle connections cost no buffers, and a busy one
//! allocates nothing in the steady state: a buffer whose slices are all dropped is reclaimed as it is.

use std::cell::RefCell;

use bytes::BytesMut;
use http::{Extensions, HeaderMap};

/// Holds the head and small body of nearly every message.
pub const SIZE: usize = 16 * 1024;

/// What a large body is read by.
pub const LARGE: usize = 64 * 1024;

/// Kept per thread: 64 exchanges at once are served without the allocator, and 1 MiB is what that costs.
const KEPT: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static MAPS: RefCell<Vec<(HeaderMap, Extensions)>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`SIZE`] bytes.
pub fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Gives back a buffer; its content is lost. Without capacity it was never taken.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.try_reclaim(SIZE) && buffer.capacity() < LARGE {
        BUFFERS.with_borrow_mut(|kept| {
            if kept.len() < KEPT {
                kept.push(buffer);
            }
        });
    }
}

/// Room for the next read: a large piece of content is read into a large buffer, which [`crate::http1::body::Decoder`] then passes
/// on without copying it.
pub fn make_room(buffer: &mut BytesMut, expected: u64) {
    let spare = buffer.capacity() - buffer.len();
    let wanted = if expected > SIZE as u64 {
        usize::try_from(expected).unwrap_or(usize::MAX).min(LARGE)
    } else {
        SIZE / 4
    };
    if spare < wanted {
        buffer.reserve(if wanted > SIZE { wanted } else { SIZE });
    }
}

/// An empty header map and empty extensions, with room.
pub fn take_maps() -> (HeaderMap, Extensions) {
    MAPS.with_borrow_mut(Vec::pop).unwrap_or_else(|| (HeaderMap::with_capacity(24), Extensions::new()))
}

/// Gives back the maps of a head that has been sent.
pub fn give_maps(mut headers: HeaderMap, mut extensions: Extensions) {
    // A map that once had to grow large is not kept at that size.
    if headers.capacity() > 128 {
        return;
    }
    headers.clear();
    extensions.clear();
    MAPS.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push((headers, extensions));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_slices_are_gone() {
        let mut buffer = take();
        buffer.extend_from_slice(b"head and body");
        let slice = buffer.split_to(4).freeze();
        drop(slice);
        let at = buffer.as_ptr() as usize;
        give(buffer);
        let again = take();
        assert!(again.is_empty() && again.capacity() >= SIZE);
        assert_eq!(again.as_ptr() as usize, at - 4, "the same memory");
    }

    #[test]
    fn a_buffer_in_use_is_not_kept() {
        let mut buffer = take();
        buffer.extend_from_slice(b"head");
        let slice = buffer.split().freeze();
        give(buffer);
        assert!(take().is_empty());
        assert_eq!(&slice[..], b"head");
    }
}
