//! The only layer that knows HTTP, JSON and server-sent events.
