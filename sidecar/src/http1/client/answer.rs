//! The body of an answer while it arrives, with the connection in it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Connection, Upload};
use crate::body::{Body, Error, Source};
use crate::http1::body::Step;

/// Reads the answer and writes what is left of the request.
pub(super) struct Answer {
    /// None after the end.
    connection: Option<Connection>,
    /// Content that came with the head, all of it.
    ready: Body,
    /// Whether the upload goes on after the answer is complete.
    upload_goes_on: bool,
}

impl Answer {
    pub(super) fn new(connection: Connection, ready: Body, upload_goes_on: bool) -> Self {
        Self { connection: Some(connection), ready, upload_goes_on }
    }

    /// The connection of a complete answer goes home as soon as nothing is left to write.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(connection) = &mut self.connection
            && self.upload_goes_on
            && matches!(connection.0.upload, Upload::Going { .. })
        {
            // Nothing may come any more. If something does, or the connection ends, so does the upload.
            match connection.0.poll_fill(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => connection.0.keep_alive = false,
            }
        }
        if let Some(connection) = self.connection.take() {
            connection.go_home();
        }
        Poll::Ready(None)
    }
}

impl Source for Answer {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Body::Bytes(data) = std::mem::take(&mut self.ready) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let inner = &mut *connection.0;
        inner.poll_upload(context);
        loop {
            match inner.decoder.decode(&mut inner.buffer) {
                Ok(Step::Data(data)) => {
                    if inner.decoder.is_done() && inner.upload.is_done() {
                        let _ = self.poll_end(context);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Step::Trailers(trailers)) => {
                    if inner.upload.is_done() {
                        let _ = self.poll_end(context);
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Step::End) => return self.poll_end(context),
                Ok(Step::More) => {}
                Err(error) => return self.fail(error),
            }
            // Content that is here is passed on even when the caller has broken off its own.
            if let Upload::Broken(_) = inner.upload {
                return self.fail(Error::Upload);
            }
            match ready!(inner.poll_fill(context)) {
                Ok(true) => {}
                Ok(false) => match inner.decoder.end_of_connection() {
                    Ok(()) => return self.poll_end(context),
                    Err(error) => return self.fail(error),
                },
                Err(error) => return self.fail(Error::Io(error)),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && !matches!(self.ready, Body::Bytes(_))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.ready, &self.connection) {
            (Body::Bytes(data), _) => SizeHint::with_exact(data.len() as u64),
            (_, Some(connection)) => connection.0.decoder.size_hint(),
            (_, None) => SizeHint::with_exact(0),
        }
    }

    fn poll_progress(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.0.piece.shrink();
            connection.0.poll_upload(context);
        }
    }
}

impl Answer {
    /// The connection is dropped, and the reader sees that something is missing.
    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }
}
