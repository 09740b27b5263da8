//! HTTP/1.1 as the load needs it: one request written, one answer with a known length read, on a kept connection.
//!
//! Not a client for anything else. It is this small so that making the load costs little beside what is measured.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes an answer may have.
const MAX_BYTES: usize = 1 << 20;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A stream in both directions, encrypted or not.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// One connection.
pub(crate) struct Wire {
    stream: Box<dyn Duplex>,
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Wire {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, received: Vec::with_capacity(4096) }
    }

    /// Sends `request` and reads the answer to it.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.received.clear();
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let (head, status, length) = loop {
            if let Some(found) = read_head(&self.received)? {
                break found;
            }
            self.more().await?;
        };
        while self.received.len() < head + length {
            self.more().await?;
        }
        if self.received.len() > head + length {
            return Err(broken("more than one answer"));
        }
        Ok(Answer { status, body: &self.received[head..] })
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.received.len() > MAX_BYTES {
            return Err(broken("an answer without an end"));
        }
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Length of the head, status, and length of the body; `None` while the head is not complete.
fn read_head(received: &[u8]) -> io::Result<Option<(usize, u16, usize)>> {
    let Some(end) = received.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| broken("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3)?.parse().ok())
        .ok_or_else(|| broken("no status"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| broken("no length"))?;
    Ok(Some((end + HEAD_END.len(), status, length)))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer has {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(received: &str, expected: Option<(usize, u16, usize)>) {
        assert_eq!(read_head(received.as_bytes()).ok().flatten(), expected, "{received:?}");
    }

    #[test]
    fn an_answer_ends_where_its_length_says() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Some((38, 200, 2)));
        check("HTTP/1.1 403 Forbidden\r\nContent-Length:0\r\nx: y\r\n\r\n", Some((50, 403, 0)));
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", None);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None);
        assert!(read_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(read_head(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n").is_err());
    }
}
