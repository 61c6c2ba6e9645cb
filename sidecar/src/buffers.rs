//! What connections borrow while they work: read and write buffers and header maps, kept per thread.
//!
//! An idle connection holds none of them, so ten thousand idle connections cost no buffers, and a busy one
//! allocates nothing in the steady state: a buffer is reclaimed as it is once its slices are dropped.
//!
//! A large body moves in large pieces, for each piece costs two system calls and wakes two tasks; how large is
//! for a [`Piece`] to say.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Holds the head and small body of nearly every message.
pub const SIZE: usize = 16 * 1024;

/// What a large body is read by at first.
const LARGE: usize = 64 * 1024;

/// What it is read by when its reader keeps up. Measured: half of the CPU a byte of [`LARGE`] pieces. More than a
/// power of two, so that a body of 1 MiB and its head are two pieces.
const LARGEST: usize = 516 * 1024;

/// What may be held by pieces that wait for slow readers, all together, before pieces stay at [`SIZE`].
const MAX_BLOCKED: usize = 16 * 1024 * 1024;

/// Kept per thread: 64 exchanges at once are served without the allocator, and 1 MiB is what that costs.
const KEPT: usize = 64;

/// Large buffers kept per thread, for at most another 2 MiB.
const KEPT_LARGE: usize = 4;

static BLOCKED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static LARGES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static MAPS: RefCell<Vec<(HeaderMap, Extensions)>> = const { RefCell::new(Vec::new()) };
}

/// How much is read at once: what a connection has shown to give, and its reader to take.
#[derive(Debug, Clone, Copy)]
pub struct Piece(usize);

impl Default for Piece {
    fn default() -> Self {
        Self(SIZE)
    }
}

impl Piece {
    /// A read gave `read` bytes of `offered`: more next time, if it was all.
    pub fn read(&mut self, read: usize, offered: usize) {
        if read == offered && read >= self.0 {
            self.0 = (self.0 * 2).min(LARGEST);
        }
    }

    /// Only little comes, or who takes it is behind: a slow reader shall not hold much.
    pub fn shrink(&mut self) {
        self.0 = SIZE;
    }

    /// What to offer to the next read, where `expected` bytes are known to come.
    fn wanted(self, expected: u64) -> usize {
        let most = if BLOCKED.load(Relaxed) > MAX_BLOCKED { SIZE } else { LARGEST };
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        match expected {
            0 => self.0.min(most),
            _ => expected.min(self.0.max(LARGE)).min(most),
        }
    }
}

/// A large piece whose reader is behind, as long as it is.
#[derive(Debug)]
pub struct Blocked(usize);

impl Blocked {
    /// A piece of so many bytes is held, however few of them still wait, in a buffer that is most likely large.
    pub fn new(bytes: usize) -> Self {
        let held = bytes.max(LARGE);
        BLOCKED.fetch_add(held, Relaxed);
        Self(held)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        BLOCKED.fetch_sub(self.0, Relaxed);
    }
}

/// An empty buffer with room for [`SIZE`] bytes.
pub fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

fn take_large(size: usize) -> BytesMut {
    let kept = LARGES.with_borrow_mut(Vec::pop);
    let fit = kept.and_then(|mut buffer| buffer.try_reclaim(size).then_some(buffer));
    fit.unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Gives back a buffer; its content is lost. While slices of it are in use nothing is given back: whoever has the
/// last one does it, by [`give_slice`].
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.try_reclaim(LARGE) {
        keep(&LARGES, KEPT_LARGE, buffer);
    } else if buffer.try_reclaim(SIZE) {
        keep(&BUFFERS, KEPT, buffer);
    }
}

/// The first `length` bytes. The slice that leaves no room behind it takes the buffer along and gives it back by
/// [`give_slice`]: nothing would be read into what is left, and nobody would keep it.
pub fn split_to(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length == buffer.capacity() {
        return std::mem::take(buffer).freeze();
    }
    buffer.split_to(length).freeze()
}

/// Gives back the buffer that a slice was split from, if this was its last use.
pub fn give_slice(slice: Bytes) {
    if let Ok(buffer) = slice.try_into_mut() {
        give(buffer);
    }
}

fn keep(kept: &'static LocalKey<RefCell<Vec<BytesMut>>>, most: usize, buffer: BytesMut) {
    kept.with_borrow_mut(|kept| {
        if kept.len() < most {
            kept.push(buffer);
        }
    });
}

/// Room for the next read, where `expected` bytes of content are known to come, 0 where nothing is: a large piece
/// of content is read into a large buffer, which [`crate::http1::body::Decoder`] then passes on without copying it.
pub fn make_room(buffer: &mut BytesMut, expected: u64, piece: Piece) {
    let wanted = piece.wanted(expected);
    let enough = if wanted > SIZE { wanted } else { SIZE / 4 };
    if buffer.capacity() - buffer.len() >= enough || buffer.try_reclaim(wanted) {
        return;
    }
    if wanted <= SIZE {
        buffer.reserve(SIZE);
        return;
    }
    let mut large = take_large(wanted + buffer.len());
    large.extend_from_slice(buffer);
    give(std::mem::replace(buffer, large));
}

/// Reads once, at most a piece: 0 at the end. While there is nothing to read, `buffer` is given back if it is empty.
pub fn poll_read<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    expected: u64,
    piece: &mut Piece,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    make_room(buffer, expected, *piece);
    let offered = buffer.capacity() - buffer.len();
    let polled = pin!(reader.read_buf(buffer)).poll(context);
    if polled.is_pending() && buffer.is_empty() {
        give(std::mem::take(buffer));
    }
    let read = ready!(polled)?;
    piece.read(read, offered);
    Poll::Ready(Ok(read))
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
    fn a_buffer_in_use_is_given_back_with_its_last_slice() {
        let mut buffer = take();
        buffer.extend_from_slice(b"head");
        let at = buffer.as_ptr() as usize;
        let slice = buffer.split().freeze();
        give(buffer);
        assert_eq!(&slice[..], b"head");
        give_slice(slice);
        assert_eq!(take().as_ptr() as usize, at, "the same memory");
    }

    #[test]
    fn a_buffer_that_is_full_is_given_back_with_its_last_slice() {
        let mut buffer = take();
        buffer.resize(SIZE, b'x');
        let at = buffer.as_ptr() as usize;
        let (head, content) = (split_to(&mut buffer, 100), split_to(&mut buffer, SIZE - 100));
        assert_eq!((head.len(), content.len(), buffer.capacity()), (100, SIZE - 100, 0));
        give_slice(head);
        give_slice(content);
        assert_eq!(take().as_ptr() as usize, at, "the same memory");
    }

    #[test]
    fn a_large_body_is_read_into_the_same_memory() {
        let mut piece = Piece::default();
        let mut buffer = take();
        buffer.extend_from_slice(b"first");
        make_room(&mut buffer, u64::MAX, piece);
        assert_eq!((&buffer[..], buffer.capacity()), (&b"first"[..], LARGE + 5));
        let at = buffer.as_ptr() as usize;
        for _ in 0..3 {
            buffer.resize(LARGE, b'x');
            drop(buffer.split().freeze());
            make_room(&mut buffer, LARGE as u64, piece);
            assert_eq!(buffer.as_ptr() as usize, at);
        }
        for _ in 0..3 {
            piece.read(piece.0, piece.0);
        }
        make_room(&mut buffer, u64::MAX, piece);
        assert!(buffer.capacity() >= 2 * LARGE);
    }

    #[test]
    fn pieces_grow_while_the_reader_keeps_up() {
        let mut piece = Piece::default();
        piece.read(SIZE - 1, SIZE);
        assert_eq!(piece.0, SIZE);
        for _ in 0..9 {
            piece.read(piece.0, piece.0);
        }
        assert_eq!(piece.0, LARGEST);
        piece.read(300, LARGEST);
        assert_eq!(piece.0, LARGEST, "the end of a large one");
        assert_eq!(piece.wanted(205), 205);
        piece.shrink();
        assert_eq!((piece.wanted(0), piece.wanted(u64::MAX)), (SIZE, LARGE));
    }
}
