//! What the corpus does not show: limits, and where content ends up.

use super::*;

fn decode(framing: Framing, bytes: &[u8]) -> Result<Vec<Step>, Error> {
    let (mut decoder, mut buffer, mut steps) = (Decoder::new(framing), BytesMut::from(bytes), Vec::new());
    loop {
        match decoder.decode(&mut buffer)? {
            Step::More => return Ok(steps),
            Step::End => {
                steps.push(Step::End);
                return Ok(steps);
            }
            step => steps.push(step),
        }
    }
}

#[test]
fn a_length_ends_where_it_says() {
    let mut decoder = Decoder::new(Framing::Length(5));
    let mut buffer = BytesMut::from("hello and more");
    assert_eq!(decoder.size_hint().exact(), Some(5));
    assert_eq!(decoder.decode(&mut buffer).unwrap(), Step::Data("hello".into()));
    assert!(decoder.is_done());
    assert_eq!(decoder.decode(&mut buffer).unwrap(), Step::End);
    assert_eq!(buffer, " and more");
}

#[test]
fn content_is_not_copied() {
    let mut buffer = BytesMut::from(&[b'x'; 1000][..]);
    let at = buffer.as_ptr();
    let Ok(Step::Data(data)) = Decoder::new(Framing::Length(1000)).decode(&mut buffer) else {
        panic!("no data")
    };
    assert_eq!(data.as_ptr(), at);
}

#[test]
fn the_end_of_the_connection_ends_only_what_it_may_end() {
    for (framing, may) in [
        (Framing::Close, true),
        (Framing::None, true),
        (Framing::Length(0), true),
        (Framing::Length(1), false),
        (Framing::Chunked, false),
    ] {
        assert_eq!(Decoder::new(framing).end_of_connection().is_ok(), may, "{framing:?}");
    }
}

#[test]
fn extensions_are_bounded() {
    let line = |length: usize| format!("1;{}\r\nx\r\n", "a".repeat(length));
    assert!(decode(Framing::Chunked, line(1000).as_bytes()).is_ok());
    assert!(decode(Framing::Chunked, line(2000).as_bytes()).is_err());
    assert!(decode(Framing::Chunked, line(1000).repeat(17).as_bytes()).is_err(), "all of them together");
}

#[test]
fn trailers_are_bounded_and_cannot_frame() {
    let trailer = |fields: &str| decode(Framing::Chunked, format!("0\r\n{fields}\r\n").as_bytes());
    assert!(trailer(&"x: y\r\n".repeat(101)).is_err());
    assert!(trailer(&format!("x: {}\r\n", "y".repeat(17_000))).is_err());
    assert_eq!(
        trailer("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\n").unwrap(),
        [Step::End]
    );
    let Ok(steps) = trailer("grpc-status: 0\r\ngrpc-status: 1\r\nTE: x\r\n") else { panic!("refused") };
    let [Step::Trailers(trailers)] = &steps[..1] else { panic!("{steps:?}") };
    assert_eq!(trailers.len(), 2);
}

#[test]
fn after_an_error_there_are_only_errors() {
    let (mut decoder, mut buffer) = (Decoder::new(Framing::Chunked), BytesMut::from("x\r\n"));
    assert!(decoder.decode(&mut buffer).is_err());
    let mut good = BytesMut::from("0\r\n\r\n");
    assert!(decoder.decode(&mut good).is_err());
    assert!(decoder.is_broken() && !decoder.is_done() && decoder.end_of_connection().is_err());
}
