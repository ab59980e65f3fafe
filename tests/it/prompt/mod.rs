//! What the golden vectors do not reach: hostile files, every cut of a stream, error messages,
//! Jinja templates, speed.

mod conversations;
mod errors;
mod files;
mod jinja;
mod output;
mod streaming;
mod text;
