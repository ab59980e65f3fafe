//! What the engine says of a request, waited for no longer than the request has time.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::error::ApiError;
use crate::engine::{RequestStream, Update};

/// The engine ends a request at its deadline by itself; this much later it is taken to be stuck.
const DEADLINE_GRACE: Duration = Duration::from_secs(5);

/// The next update of a request that has not ended. An engine that says nothing more, or not in time, fails it.
pub(super) async fn next_update(stream: &mut RequestStream, deadline: Option<Instant>) -> Result<Update, ApiError> {
    let update = match deadline {
        None => stream.next().await,
        Some(deadline) => {
            let next = timeout_at((deadline + DEADLINE_GRACE).into(), stream.next()).await;
            next.map_err(|_| ApiError::DeadlineExceeded)?
        }
    };
    update.ok_or_else(|| ApiError::Internal { message: "The engine has stopped.".to_owned() })
}
