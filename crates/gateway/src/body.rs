//! Response bodies: short ones of our own, and upstream streams that end when their permission does.
//!
//! A stream is passed on unread and unbuffered. It is watched: a kill, a revocation, a lock or a stale
//! snapshot breaks it off, and however it ends, its outcome is recorded.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::outcome::{Ending, OutcomeOnDrop};
use crate::upstream::ConnectionLease;

/// A response body.
pub(crate) enum Body {
    Full(Option<Bytes>),
    Passed(Box<Passed>),
}

/// An upstream's body on its way to the caller.
pub(crate) struct Passed {
    inner: Incoming,
    lease: Option<ConnectionLease>,
    /// Ready when whatever let this through no longer stands.
    ended: BoxFuture<'static, ()>,
    outcome: OutcomeOnDrop,
}

/// Why a passed-on body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    #[error("the permission for this stream ended")]
    Ended,
    #[error("the upstream broke off")]
    Upstream(#[source] hyper::Error),
}

impl Body {
    pub(crate) const fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }

    pub(crate) fn passed(
        inner: Incoming,
        lease: ConnectionLease,
        ended: BoxFuture<'static, ()>,
        outcome: OutcomeOnDrop,
    ) -> Self {
        Self::Passed(Box::new(Passed { inner, lease: Some(lease), ended, outcome }))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Passed(passed) => passed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            // Never by its own account: the end must be polled, because that is where the outcome is told.
            Self::Passed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Passed(passed) => passed.inner.size_hint(),
        }
    }
}

impl Passed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended.as_mut().poll(context).is_ready() {
            self.outcome.finish(Ending::Ended);
            return Poll::Ready(Some(Err(BrokenOff::Ended)));
        }
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            };
            return Poll::Ready(match frame {
                None => {
                    self.complete();
                    None
                }
                Some(Err(error)) => {
                    self.outcome.finish(Ending::Failed);
                    Some(Err(BrokenOff::Upstream(error)))
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.outcome.count(data.len());
                        // With a known length the server stops polling after the last byte, so the end is here.
                        if self.inner.is_end_stream() {
                            self.complete();
                        }
                        Some(Ok(Frame::data(data)))
                    }
                    // Trailers are dropped: nothing may follow the body that nobody looked at.
                    Err(_trailers) => continue,
                },
            });
        }
    }

    fn complete(&mut self) {
        self.outcome.finish(Ending::Completed);
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}
