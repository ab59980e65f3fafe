//! Server-sent events as they come in. Main type: [`EventLines`]. Only `data` matters here, and each of its
//! lines is an event of its own, as all servers of this API write them.

use bytes::{Buf, Bytes, BytesMut};

/// A line longer than this is no token.
const MOST_BYTES: usize = 1 << 20;

/// Cuts a body, which arrives in pieces of any size, into the payloads of its `data:` lines.
#[derive(Debug, Default)]
pub struct EventLines {
    buffer: BytesMut,
    /// Bytes of `buffer` that are known to hold no line break.
    searched: usize,
}

/// A line that is longer than any event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of the stream is longer than {MOST_BYTES} bytes")]
pub struct LineTooLong;

impl EventLines {
    /// The next piece of the body.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), LineTooLong> {
        if self.buffer.len() + piece.len() > MOST_BYTES + self.complete() {
            return Err(LineTooLong);
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// The payload of the next `data:` line that is complete.
    pub fn next_data(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return None;
            };
            let mut line = self.buffer.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.starts_with(b"data:") {
                line.advance(5);
                while line.first() == Some(&b' ') {
                    line.advance(1);
                }
                return Some(line);
            }
        }
    }

    fn complete(&self) -> usize {
        memchr::memrchr(b'\n', &self.buffer).map_or(0, |end| end + 1)
    }
}
