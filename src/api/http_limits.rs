//! What one client may cost the others, and what clients may leave here.

use std::time::Duration;

/// Limits of the HTTP server: what one client may cost the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Longest request body, in bytes; a longer one answers 413.
    pub body_bytes: usize,
    /// All request bodies held at once, in bytes, finished or not; a request beyond that answers 429. Tenants that have less than
    /// their part of it get that part though others have taken all, so with several it may be twice as much.
    pub all_bodies_bytes: usize,
    /// Longest request head (HTTP/1) or header list (HTTP/2), in bytes; at least 8192.
    pub header_bytes: usize,
    /// Time for a request's head to arrive; also how long a connection without an open request is kept.
    pub header_timeout: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Time for a request's answer to be generated.
    pub request_timeout: Duration,
    /// Time that a client may go without reading before its request is dropped.
    pub stall_timeout: Duration,
    /// Time for running requests to finish at shutdown.
    pub drain_timeout: Duration,
    /// Silence on a stream after which a `: ping` comment is sent.
    pub ping_interval: Duration,
    /// Requests handled at once, those waiting in the engine's queue included; and as many that only need what is stored.
    pub max_requests: usize,
    /// Open connections.
    pub max_connections: usize,
    /// What clients may leave here.
    pub storage: StorageLimits,
}

/// Limits of what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// Longest file, in bytes; a longer one answers 413.
    pub file_bytes: usize,
    /// Age at which files, responses, conversations, and batches that have ended, are deleted.
    pub retention: Duration,
    /// Answers that are generated at once for lines of batches of a tenant, and as many for its responses in the background. A line may want several; one that wants more than these is
    /// asked alone.
    pub answers_at_once: usize,
}

impl Default for StorageLimits {
    fn default() -> Self {
        let thirty_days = Duration::from_secs(30 * 24 * 60 * 60);
        Self { file_bytes: 200 << 20, retention: thirty_days, answers_at_once: 16 }
    }
}

impl Default for HttpLimits {
    /// Those of `serve` when nothing is set.
    fn default() -> Self {
        let request_timeout = Duration::from_secs(600);
        Self {
            body_bytes: 16 << 20,
            all_bodies_bytes: 256 << 20,
            header_bytes: 32 << 10,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            request_timeout,
            stall_timeout: Duration::from_secs(60),
            drain_timeout: request_timeout, // so that no request needs to be cut
            ping_interval: Duration::from_secs(15),
            max_requests: 320,
            max_connections: 4096,
            storage: StorageLimits::default(),
        }
    }
}
