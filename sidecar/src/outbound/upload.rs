//! The body of a request, which a second attempt may need once more.
//!
//! ```text
//! caller --> Shared { kept: the first 64 KiB } --Replay(attempt 1)--> endpoint A   (reset)
//!                                              --Replay(attempt 2)--> endpoint B: what was kept, then the rest
//! ```
//!
//! Pieces are kept while they pass, by reference; once there are too many they are let go, and the request can
//! not be sent again. An attempt that is over cannot take pieces away from the one that follows.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, Error, Source};
use crate::exchange::watched::{Activity, Idle};
use crate::failure::{Failure, Kind};

/// Content that is kept for another attempt; Envoy's and linkerd's default, too.
pub const KEPT: usize = 64 * 1024;

/// A request's body, for one attempt after the other.
#[derive(Debug)]
pub struct Upload(State);

#[derive(Debug)]
enum State {
    /// All of it is here.
    Whole(Bytes),
    /// It arrives piece by piece.
    Shared(Arc<Mutex<Shared>>),
}

struct Shared {
    /// None: it has ended, or broke.
    rest: Option<Body>,
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// Too much came, or nothing is to be kept.
    gone: bool,
    broken: Option<Broken>,
    /// The attempt that may read.
    attempt: u32,
    bytes: u64,
    activity: Option<Arc<Activity>>,
}

#[derive(Debug, Clone, Copy)]
enum Broken {
    /// The caller left.
    Gone,
    /// It broke the framing.
    Malformed,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Shared({} bytes, attempt {}, gone: {})", self.bytes, self.attempt, self.gone)
    }
}

impl Upload {
    /// `keep`: there may be another attempt.
    pub fn new(body: Body, keep: bool, idle: Option<&Idle>) -> Self {
        Self(match body {
            Body::Empty => State::Whole(Bytes::new()),
            Body::Bytes(bytes) => State::Whole(bytes),
            body => State::Shared(Arc::new(Mutex::new(Shared {
                rest: Some(body),
                kept: Vec::new(),
                kept_bytes: 0,
                gone: !keep,
                broken: None,
                attempt: 0,
                bytes: 0,
                activity: idle.map(|(_, activity)| Arc::clone(activity)),
            }))),
        })
    }

    /// The body for the next attempt; those before it have no say any more.
    pub fn body(&mut self) -> Body {
        match &self.0 {
            State::Whole(bytes) => Body::from(bytes.clone()),
            State::Shared(shared) => {
                let mut locked = lock(shared);
                locked.attempt += 1;
                let attempt = locked.attempt;
                drop(locked);
                Body::source(Replay { shared: Arc::clone(shared), attempt, next: 0 })
            }
        }
    }

    /// Whether [`Self::body`] would give all of it.
    pub fn is_replayable(&self) -> bool {
        match &self.0 {
            State::Whole(_) => true,
            State::Shared(shared) => {
                let shared = lock(shared);
                shared.broken.is_none() && (!shared.gone || shared.bytes == 0)
            }
        }
    }

    /// Whether the caller did not send all of it: then no attempt can succeed.
    pub fn is_broken(&self) -> bool {
        matches!(&self.0, State::Shared(shared) if lock(shared).broken.is_some())
    }

    /// What to say when it is broken.
    pub fn failure(&self) -> Failure {
        match &self.0 {
            State::Shared(shared) if matches!(lock(shared).broken, Some(Broken::Malformed)) => {
                Failure::downstream(Kind::BadRequest, "the request's body is malformed")
            }
            _ => Failure::downstream(Kind::Gone, "the caller left in the middle of the request"),
        }
    }

    /// Content that has come so far.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            State::Whole(bytes) => bytes.len() as u64,
            State::Shared(shared) => lock(shared).bytes,
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body as one attempt reads it.
struct Replay {
    shared: Arc<Mutex<Shared>>,
    attempt: u32,
    /// Which kept piece is next.
    next: usize,
}

impl Source for Replay {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let mut shared = lock(&this.shared);
        if shared.attempt != this.attempt {
            return Poll::Ready(Some(Err(Error::Stale)));
        }
        if let Some(piece) = shared.kept.get(this.next).cloned() {
            this.next += 1;
            return Poll::Ready(Some(Ok(piece.into_frame())));
        }
        let polled = shared.poll_rest(context);
        this.next = shared.kept.len();
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.attempt == self.attempt
            && self.next >= shared.kept.len()
            && shared.broken.is_none()
            && shared.rest.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        let kept = shared.kept.iter().skip(self.next).map(Piece::length).sum::<usize>() as u64;
        let rest = shared.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        // Who knows the length sends no chunks, and then there is no room for trailers.
        let trailers = shared.kept.iter().skip(self.next).any(|piece| matches!(piece, Piece::Trailers(_)));
        if let Some(upper) = rest.upper()
            && !trailers
        {
            hint.set_upper(upper + kept);
        }
        hint
    }

    fn poll_progress(self: Pin<&mut Self>, context: &mut Context<'_>) {
        let mut shared = lock(&self.shared);
        if shared.attempt == self.attempt
            && let Some(rest) = &mut shared.rest
        {
            rest.poll_progress(context);
        }
    }
}

impl Shared {
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let polled = Pin::new(rest).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                if let Some(activity) = &self.activity {
                    activity.touch();
                }
                self.keep(frame);
            }
            Poll::Ready(Some(Err(error))) => {
                let malformed = matches!(error, Error::Malformed(_));
                self.broken = Some(if malformed { Broken::Malformed } else { Broken::Gone });
                self.rest = None;
            }
            Poll::Ready(None) => self.rest = None,
        }
        polled
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.gone {
            return;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.kept_bytes += piece.length();
        self.kept.push(piece);
        if self.kept_bytes > KEPT {
            self.gone = true;
            self.kept = Vec::new();
        }
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::collections::VecDeque;

    struct Pieces(VecDeque<Result<Frame<Bytes>, Error>>);

    impl Source for Pieces {
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn streaming(sizes: &[usize]) -> Body {
        let pieces = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; *size]))));
        Body::source(Pieces(pieces.collect()))
    }

    async fn next(body: &mut Body) -> Option<usize> {
        body.frame().await.map(|frame| frame.unwrap().into_data().unwrap().len())
    }

    #[tokio::test]
    async fn a_second_attempt_gets_all_of_it() {
        let mut upload = Upload::new(streaming(&[10, 20, 30]), true, None);
        let mut first = upload.body();
        assert_eq!(next(&mut first).await, Some(10));
        assert_eq!(next(&mut first).await, Some(20));
        assert!(upload.is_replayable());
        let mut second = upload.body();
        assert!(matches!(first.frame().await, Some(Err(Error::Stale))), "the first attempt is over");
        for size in [10, 20, 30] {
            assert_eq!(next(&mut second).await, Some(size));
        }
        assert_eq!(next(&mut second).await, None);
        assert!(http_body::Body::is_end_stream(&second));
        assert_eq!(upload.bytes(), 60);
    }

    #[tokio::test]
    async fn a_second_attempt_has_room_for_the_trailers() {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        let pieces = [Ok(Frame::data(Bytes::from_static(b"data"))), Ok(Frame::trailers(trailers))];
        let mut upload = Upload::new(Body::source(Pieces(pieces.into())), true, None);
        let mut first = upload.body();
        while first.frame().await.is_some() {}
        let mut second = upload.body();
        assert_eq!(second.size_hint().exact(), None, "a known length would be sent without chunks");
        assert_eq!(next(&mut second).await, Some(4));
        assert!(second.frame().await.unwrap().unwrap().is_trailers());
        assert!(second.is_end_stream());
    }

    #[tokio::test]
    async fn too_much_is_not_kept() {
        let mut upload = Upload::new(streaming(&[KEPT, 1, 5]), true, None);
        let mut body = upload.body();
        next(&mut body).await;
        assert!(upload.is_replayable());
        next(&mut body).await;
        assert!(!upload.is_replayable());
        assert_eq!(next(&mut body).await, Some(5), "the attempt itself goes on");
    }

    #[tokio::test]
    async fn unread_is_replayable_even_when_nothing_is_kept() {
        let mut upload = Upload::new(streaming(&[1, 1]), false, None);
        let _unread = upload.body();
        assert!(upload.is_replayable());
        let mut read = upload.body();
        next(&mut read).await;
        assert!(!upload.is_replayable());
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_the_callers_fault() {
        let pieces = VecDeque::from([Ok(Frame::data(Bytes::from_static(b"x"))), Err(Error::Incomplete)]);
        let mut upload = Upload::new(Body::source(Pieces(pieces)), true, None);
        let mut body = upload.body();
        next(&mut body).await;
        assert!(body.frame().await.unwrap().is_err());
        assert!(upload.is_broken() && !upload.is_replayable());
        assert_eq!(upload.failure().kind, Kind::Gone);
    }
}
