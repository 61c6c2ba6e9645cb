//! What a `preStop` hook runs: tells the proxy beside it to drain, and returns at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The proxy answers within a millisecond; a pod's end does not wait long for one that does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of the answer only the first line is read.
const STATUS_LINE: usize = 64;

/// The proxy did not say that it drains.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nobody is there, or nobody answers.
    #[error("no proxy at {0}: {1}")]
    Io(SocketAddr, io::Error),
    /// Whoever listens there said something else.
    #[error("the answer from {0} is `{1}`, not 200")]
    Refused(SocketAddr, String),
}

/// Has the proxy whose admin page is at `admin` drain.
pub fn drain(admin: SocketAddr) -> Result<(), Failed> {
    let line = post(admin).map_err(|error| Failed::Io(admin, error))?;
    if line.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(Failed::Refused(admin, line)) }
}

/// `POST /drain`; the first line of the answer.
fn post(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request =
        format!("POST /drain HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < STATUS_LINE && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        answer.extend(byte);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server for one request: what it was asked, and what the caller made of the answer.
    fn against(answer: &'static str) -> (String, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut byte) = (Vec::new(), [0]);
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let said = drain(address).map_err(|error| error.to_string());
        (server.join().unwrap(), said)
    }

    #[test]
    fn says_whether_the_proxy_drains() {
        let (asked, said) = against("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ndraining\n");
        assert!(asked.starts_with("POST /drain HTTP/1.1\r\n"), "{asked}");
        assert_eq!(said, Ok(()));

        let (_, said) = against("HTTP/1.1 404 Not Found\r\n\r\n");
        assert!(said.unwrap_err().contains("is `HTTP/1.1 404 Not Found`, not 200"));
        let (_, said) = against("");
        assert!(said.unwrap_err().contains("is ``, not 200"));
    }

    #[test]
    fn nobody_there_is_an_error() {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(drain(unused).unwrap_err().to_string().starts_with(&format!("no proxy at {unused}: ")));
    }
}
