//! Requests are read with `envoy_types`, responses written from shared bytes.
//!
//! A response gets a buffer of its own, of just its size, which goes when it is sent. tonic's encoder has one
//! buffer a stream that grows as needed and stays: a client that was once sent everything would keep as much
//! memory as everything has, for as long as it is connected.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use futures::stream::BoxStream;
use hyper::body::Frame;
use prost::Message;
use tonic::codec::{DecodeBuf, Decoder};
use tonic::codegen::http;
use tonic::{Request, Status, Streaming};

use crate::xds::session::Response;

/// A message's flag (whether it is compressed: never) and its length.
const PREFIX: usize = 5;

/// The request messages of a call, none over this size.
pub(super) fn requests<R: Message + Default + Send + 'static>(
    request: http::Request<tonic::body::Body>,
    bytes: usize,
) -> Result<Request<Streaming<R>>, Status> {
    let encoding = request.headers().get("grpc-encoding");
    if let Some(encoding) = encoding.filter(|encoding| *encoding != "identity") {
        return Err(Status::unimplemented(format!(
            "messages compressed with {encoding:?} are not read here; send them as they are"
        )));
    }
    let decode = |body| Streaming::new_request(Requests(PhantomData), body, None, Some(bytes));
    Ok(Request::from_http(request.map(decode)))
}

/// The answer to a call: these responses, and then the status.
pub(super) fn responses(
    responses: BoxStream<'static, Result<Response, Status>>,
) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(tonic::body::Body::new(Responses { responses, over: false }));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// Writes responses.
struct Responses {
    responses: BoxStream<'static, Result<Response, Status>>,
    /// The status is said.
    over: bool,
}

impl hyper::body::Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let status = match ready!(Pin::new(&mut self.responses).poll_next(context)) {
            Some(Ok(response)) => return Poll::Ready(Some(written(&response).map(Frame::data))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.over = true;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

/// The response as a gRPC message.
fn written(response: &Response) -> Result<Bytes, Status> {
    let length = match response {
        Response::Delta(message) => message.encoded_len(),
        Response::State(message) => message.encoded_len(),
    };
    let prefix = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted("a response of more than 4 GiB; ask for less at once"))?;
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(prefix);
    let encoded = match response {
        Response::Delta(message) => message.encode(&mut buffer),
        Response::State(message) => message.encode(&mut buffer),
    };
    encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(buffer.freeze())
}

/// Reads requests.
#[derive(Debug)]
struct Requests<R>(PhantomData<R>);

impl<R: Message + Default + Send + 'static> Decoder for Requests<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
