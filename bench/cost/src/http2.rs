//! HTTP/2 with as little as two ends need that know each other: frames (RFC 9113), heads that are indexed from the
//! second on (RFC 7541), and windows so large that none is ever empty.

use anyhow::ensure;

use crate::peers::CONTENT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Of SETTINGS and PING.
const ACK: u8 = 1;
/// Of HEADERS and DATA.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// SETTINGS_INITIAL_WINDOW_SIZE and its value.
const LARGE_WINDOWS: &[u8] = &[0, 4, 0x3f, 0xff, 0xff, 0xff];

/// How much a connection's window is raised at its start.
const MORE: [u8; 4] = [0x3f, 0, 0, 0];

/// A field of the static table by its index, and its value, as it is sent first.
type Field = (u8, &'static str);

/// :path, :authority, user-agent, accept, authorization.
const REQUEST: &[Field] = &[
    (4, "/api/items/42"),
    (1, "items.default.svc"),
    (58, "bench/1"),
    (19, "application/json"),
    (23, "Bearer 0123456789abcdef0123456789abcdef"),
];

/// server, content-type, cache-control, date, content-length.
const RESPONSE: &[Field] = &[
    (54, "bench"),
    (31, "application/json"),
    (24, "no-store"),
    (33, "Thu, 01 Jan 2026 00:00:00 GMT"),
    (28, CONTENT_LENGTH),
];

const CONTENT_LENGTH: &str = "128";
const _: () = assert!(CONTENT.len() == 128);

/// What one end has to remember.
pub struct Peer {
    backend: bool,
    /// The other end's preface is still to come.
    preface: bool,
    /// The fields are in the table of the other end.
    indexed: bool,
    /// A caller's next stream; 0: nothing was sent yet.
    next: u32,
}

impl Peer {
    pub fn caller() -> Self {
        Self { backend: false, preface: false, indexed: false, next: 0 }
    }

    pub fn backend() -> Self {
        Self { backend: true, preface: true, indexed: false, next: 0 }
    }

    /// So many requests, each on a stream of its own.
    pub fn requests(&mut self, number: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if self.next == 0 {
            out.extend(PREFACE);
            self.begin(&mut out);
            self.next = 1;
        }
        for _ in 0..number {
            // GET, http.
            let head = self.head(&[0x82, 0x86], REQUEST);
            frame(&mut out, HEADERS, END_STREAM | END_HEADERS, self.next, &head);
            self.next += 2;
        }
        out
    }

    /// Takes whole frames: what is to be said to them, and how many streams they ended.
    pub fn take(&mut self, read: &mut Vec<u8>) -> anyhow::Result<(Vec<u8>, usize)> {
        let (mut out, mut ended, mut taken) = (Vec::new(), 0, 0);
        if self.preface && read.starts_with(PREFACE) {
            self.preface = false;
            taken = PREFACE.len();
            self.begin(&mut out);
        }
        while let Some((kind, flags, stream, content)) = read.get(taken..).and_then(first) {
            taken += 9 + content.len();
            match kind {
                SETTINGS if flags & ACK == 0 => frame(&mut out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut out, PING, ACK, 0, content),
                HEADERS | DATA if flags & END_STREAM != 0 && self.backend => self.respond(&mut out, stream),
                HEADERS | DATA if flags & END_STREAM != 0 => {
                    ensure!(
                        kind == DATA && content.ends_with(CONTENT.as_bytes()),
                        "an answer without content"
                    );
                    ended += 1;
                }
                RST_STREAM | GOAWAY => anyhow::bail!("frame {kind} on stream {stream}: {content:?}"),
                _ => {}
            }
        }
        read.drain(..taken).for_each(drop);
        Ok((out, ended))
    }

    fn begin(&self, out: &mut Vec<u8>) {
        frame(out, SETTINGS, 0, 0, LARGE_WINDOWS);
        frame(out, WINDOW_UPDATE, 0, 0, &MORE);
    }

    fn respond(&mut self, out: &mut Vec<u8>, stream: u32) {
        // 200.
        let head = self.head(&[0x88], RESPONSE);
        frame(out, HEADERS, END_HEADERS, stream, &head);
        frame(out, DATA, END_STREAM, stream, CONTENT.as_bytes());
    }

    /// A header block: `first`, then each field, by its place in the table once it is there.
    fn head(&mut self, first: &[u8], fields: &[Field]) -> Vec<u8> {
        let mut block = first.to_vec();
        let ages = (0..fields.len() as u8).rev(); // The field that was said last is the youngest.
        for (age, (name, value)) in ages.zip(fields) {
            if self.indexed {
                block.push(0x80 | (62 + age)); // Behind the static table.
            } else {
                block.extend([0x40 | name, u8::try_from(value.len()).expect("short")]);
                block.extend(value.as_bytes());
            }
        }
        self.indexed = true;
        block
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    let length = u32::try_from(content.len()).expect("a short frame");
    out.extend(length.to_be_bytes().into_iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(content);
}

/// The first frame, if all of it is there.
fn first(read: &[u8]) -> Option<(u8, u8, u32, &[u8])> {
    let (head, rest) = read.split_first_chunk::<9>()?;
    let [a, b, c, kind, flags, s @ ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    Some((kind, flags, u32::from_be_bytes(s), rest.get(..length)?))
}
