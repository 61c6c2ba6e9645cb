//! Requests are read with `envoy_types`, responses written from shared bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::xds::session::Response;

/// Reads `R`, writes [`Response`].
#[derive(Debug)]
pub(super) struct Codec<R>(PhantomData<R>);

impl<R> Default for Codec<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Message + Default + Send + 'static> tonic::codec::Codec for Codec<R> {
    type Encode = Response;
    type Decode = R;
    type Encoder = Responses;
    type Decoder = Requests<R>;

    fn encoder(&mut self) -> Responses {
        Responses
    }

    fn decoder(&mut self) -> Requests<R> {
        Requests(PhantomData)
    }
}

/// Writes responses.
#[derive(Debug)]
pub(super) struct Responses;

impl Encoder for Responses {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, item: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let written = match item {
            Response::Delta(message) => message.encode(buffer),
            Response::State(message) => message.encode(buffer),
        };
        written.map_err(|error| Status::internal(error.to_string()))
    }
}

/// Reads requests.
#[derive(Debug)]
pub(super) struct Requests<R>(PhantomData<R>);

impl<R: Message + Default + Send + 'static> Decoder for Requests<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
