//! Bodies: from bytes to frames, for each of the four ways in which a body may end.
//!
//! ```text
//!              +------------------------------+
//!              v                              |
//! chunked:   Size --n--> Data --0 left--> AfterData
//!              |
//!              +--0--> Trailers --empty line--> Done
//! length:    Length --0 left--> Done
//! close:     Close --end of the connection--> Done
//! ```

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::SizeHint;

use crate::body::Error;
use crate::buffers;
use crate::http1::head::{self, Framing, Scan, fields};

/// The longest line before a chunk, its size and extensions. Nobody uses extensions, so this is generous.
const MAX_SIZE_LINE: usize = 1024;

/// Extension bytes in one body: who sends more wants to make us read, not to say something.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// The longest trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// What the next bytes were.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Content.
    Data(Bytes),
    /// The fields after the content. The body is over.
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// More bytes are needed.
    More,
}

/// Reads one body from a connection's bytes.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Extension bytes seen so far.
    extensions: usize,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Close,
    Size,
    Data(u64),
    AfterData,
    Trailers(Scan),
    Done,
    Broken,
}

impl Decoder {
    /// For a body that is delimited like this.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::Close => State::Close,
        };
        Self { state, extensions: 0 }
    }

    /// Takes the next piece from the front of `buffer`. After an error there are only errors.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, Error> {
        let step = self.step(buffer);
        if step.is_err() {
            self.state = State::Broken;
        }
        step
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Error> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Step::End),
                State::Broken => return Err(Error::Malformed("it was malformed before")),
                State::Close if buffer.is_empty() => return Ok(Step::More),
                State::Close => return Ok(Step::Data(buffers::split_to(buffer, buffer.len()))),
                State::Length(left) => {
                    let Some(data) = take(left, buffer) else { return Ok(Step::More) };
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Step::Data(data));
                }
                State::Data(left) => {
                    let Some(data) = take(left, buffer) else { return Ok(Step::More) };
                    if *left == 0 {
                        self.state = State::AfterData;
                    }
                    return Ok(Step::Data(data));
                }
                State::AfterData => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(Error::Malformed("chunk longer than its size")),
                    None if matches!(buffer.first(), None | Some(b'\r')) => return Ok(Step::More),
                    None => return Err(Error::Malformed("chunk longer than its size")),
                },
                State::Size => {
                    let Some((size, extensions)) = size_line(buffer)? else { return Ok(Step::More) };
                    self.extensions += extensions;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Error::Malformed("too many chunk extensions"));
                    }
                    self.state = if size == 0 { State::Trailers(Scan::default()) } else { State::Data(size) };
                }
                State::Trailers(scan) => {
                    let Some(trailers) = trailers(buffer, scan)? else { return Ok(Step::More) };
                    self.state = State::Done;
                    return Ok(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) });
                }
            }
        }
    }

    /// The connection has ended: whether the body may end here.
    pub fn end_of_connection(&mut self) -> Result<(), Error> {
        match self.state {
            State::Close | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Error::Incomplete),
        }
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether it was malformed.
    pub fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Bytes of content that are known to be still to come, to read into a buffer that suits them.
    pub fn expected(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            State::Close => u64::MAX,
            State::Size | State::AfterData | State::Trailers(_) | State::Done | State::Broken => 0,
        }
    }

    /// As [`http_body::Body::size_hint`].
    pub fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Length(left) => SizeHint::with_exact(left),
            State::Done => SizeHint::with_exact(0),
            State::Close
            | State::Size
            | State::Data(_)
            | State::AfterData
            | State::Trailers(_)
            | State::Broken => SizeHint::default(),
        }
    }
}

fn take(left: &mut u64, buffer: &mut BytesMut) -> Option<Bytes> {
    if buffer.is_empty() {
        return None;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    Some(buffers::split_to(buffer, length))
}

/// The line before a chunk: its size, and how many bytes of extensions it carried.
fn size_line(buffer: &mut BytesMut) -> Result<Option<(u64, usize)>, Error> {
    let within = buffer.get(..MAX_SIZE_LINE).unwrap_or(buffer);
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() == MAX_SIZE_LINE {
            Err(Error::Malformed("chunk size line too long"))
        } else {
            Ok(None)
        };
    };
    let Some((b'\r', line)) = within.get(..end).and_then(<[u8]>::split_last) else {
        return Err(Error::Malformed("chunk size line ends in a bare LF"));
    };
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at_checked(digits).unwrap_or((line, &[]));
    if digits.is_empty() || digits.len() > 16 {
        return Err(Error::Malformed("chunk size"));
    }
    if !are_extensions(extensions) {
        return Err(Error::Malformed("chunk extension"));
    }
    let size = digits.iter().fold(0u64, |size, digit| size << 4 | u64::from(hex_value(*digit)));
    let extensions = extensions.len();
    buffer.advance(end + 1);
    Ok(Some((size, extensions)))
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112, 7.1.1). They are dropped, but
/// must be read as everybody else reads them.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        rest = skip_blanks(rest);
        let Some((b';', after)) = rest.split_first() else { return false };
        let Some(after) = skip_token(skip_blanks(after)) else { return false };
        rest = after;
        if let Some((b'=', value)) = skip_blanks(rest).split_first() {
            let value = skip_blanks(value);
            let Some(after) =
                (if value.first() == Some(&b'"') { skip_quoted(value) } else { skip_token(value) })
            else {
                return false;
            };
            rest = after;
        }
    }
    true
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    bytes.get(blanks..).unwrap_or_default()
}

fn skip_token(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.iter().take_while(|byte| fields::is_token_byte(**byte)).count();
    if length == 0 { None } else { bytes.get(length..) }
}

fn skip_quoted(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = match byte {
            b'"' => return Some(after),
            b'\\' => {
                let (quoted, after) = after.split_first()?;
                if !is_text(*quoted) {
                    return None;
                }
                after
            }
            byte if is_text(*byte) => after,
            _ => return None,
        };
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// The fields after the last chunk, without those that may not stand there: RFC 9110, 6.5.1 lets them be
/// discarded, and a reader that merges them would be deceived.
fn trailers(buffer: &mut BytesMut, scan: &mut Scan) -> Result<Option<HeaderMap>, Error> {
    let end = match buffer.get(..2) {
        Some(b"\r\n") => {
            buffer.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        _ => {
            scan.end_of_trailers(buffer, MAX_TRAILERS).map_err(|broken| Error::Malformed(broken.reason()))?
        }
    };
    let Some(end) = end else { return Ok(None) };
    let block = buffer.split_to(end).freeze();
    let mut room = [httparse::EMPTY_HEADER; head::MAX_FIELDS];
    let parsed = match httparse::parse_headers(&block, &mut room) {
        Ok(httparse::Status::Complete((length, parsed))) if length == block.len() => parsed,
        Ok(_) | Err(_) => return Err(Error::Malformed("trailers")),
    };
    let mut map = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Error::Malformed("trailer name"))?;
        if fields::is_never_a_trailer(&name) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value))
            .map_err(|_| Error::Malformed("trailer value"))?;
        map.append(name, value);
    }
    Ok(Some(map))
}

#[cfg(test)]
mod tests;
