//! A reply's body that gives its connection back when it has been read to its end, and closes it when it has not.
//!
//! Closing is how a cancelled call reaches the other side.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Client, Connection};

/// The body of a reply, in flight.
#[derive(Debug)]
pub struct ReplyBody {
    body: Incoming,
    lease: Option<(Client, Connection)>,
}

impl ReplyBody {
    pub(super) fn new(body: Incoming, client: Client, connection: Connection) -> Self {
        let mut reply = Self { body, lease: Some((client, connection)) };
        if reply.body.is_end_stream() {
            reply.give_back();
        }
        reply
    }

    fn give_back(&mut self) {
        if let Some((client, connection)) = self.lease.take() {
            client.give_back(connection);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.give_back(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.give_back(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
