//! Whether a connection is in use: its open requests, counted.
//!
//! Main type: [`OpenRequests`], one per connection. A request is open from the moment its handler runs until its
//! answer's body has been handed to the connection or dropped, so that a stream of events is open to its end.
//! Knows nothing of what is done with an idle connection.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, response::Response, routing::future::RouteFuture};
use http_body_util::BodyExt;
use tokio::sync::watch;

/// How many requests a connection has open.
#[derive(Clone, Debug)]
pub(super) struct OpenRequests {
    count: watch::Sender<usize>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct OpenRequest {
    count: watch::Sender<usize>,
}

impl OpenRequests {
    /// Those of a connection that has just begun.
    pub(super) fn none() -> Self {
        Self { count: watch::Sender::new(0) }
    }

    /// Counts one more.
    pub(super) fn open(&self) -> OpenRequest {
        self.count.send_modify(|open| *open += 1);
        OpenRequest { count: self.count.clone() }
    }

    /// Resolves once no request has been open for so long.
    pub(super) async fn idle_for(&self, time: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // An error would mean that all senders are gone, and `self` has one.
            drop(count.wait_for(|open| *open == 0).await);
            if tokio::time::timeout(time, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl OpenRequest {
    /// The handler's answer; the request stays open while its body lasts.
    pub(super) async fn until_answered(self, answer: RouteFuture<Infallible>) -> Result<Response, Infallible> {
        Ok(answer.await?.map(|body| self.held_by(body)))
    }

    fn held_by(self, body: Body) -> Body {
        // Of all adapters this one leaves everything else as it is: the frames, their end, their length.
        Body::new(body.map_err(move |error| {
            let _open = &self;
            error
        }))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.count.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::HttpBody, extract::Request, routing::get};
    use futures_util::FutureExt;
    use tokio::time::{Instant, advance};
    use tower::Service;

    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    /// Seconds until the connection counts as idle.
    async fn seconds_until_idle(requests: &OpenRequests) -> u64 {
        let begun = Instant::now();
        requests.idle_for(TIME).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_after_the_time() {
        assert_eq!(seconds_until_idle(&OpenRequests::none()).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_however_short_begins_the_time_anew() {
        let requests = OpenRequests::none();
        let mut idle = std::pin::pin!(requests.idle_for(TIME));
        for _ in 0..3 {
            assert_eq!(idle.as_mut().now_or_never(), None);
            advance(TIME - Duration::from_secs(1)).await;
            drop(requests.open());
        }
        assert_eq!(idle.as_mut().now_or_never(), None);
        advance(TIME + Duration::from_secs(1)).await;
        assert_eq!(idle.as_mut().now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_is_idle_before_all_bodies_have_gone() {
        let requests = OpenRequests::none();
        let bodies = [requests.open(), requests.open()].map(|open| open.held_by(Body::from("text")));
        let closing = async {
            for body in bodies {
                tokio::time::sleep(TIME * 10).await; // the clock is paused
                assert_eq!(body.size_hint().exact(), Some(4), "a length is not lost");
                drop(body);
            }
        };
        let (seconds, ()) = tokio::join!(seconds_until_idle(&requests), closing);
        assert_eq!(seconds, 630);
    }

    #[tokio::test]
    async fn a_request_is_open_until_its_answer_has_been_read() {
        let requests = OpenRequests::none();
        let mut router: Router = Router::new().route("/", get(|| async { "text" }));
        let answer = requests.open().until_answered(router.call(Request::new(Body::empty()))).await;
        assert_eq!(*requests.count.borrow(), 1);
        answer.expect("the router is infallible").into_body().collect().await.expect("a complete body");
        assert_eq!(*requests.count.borrow(), 0);
    }
}
