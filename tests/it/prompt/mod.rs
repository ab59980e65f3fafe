//! What the golden vectors do not reach: hostile files, every cut of a stream, error messages,
//! Jinja templates, speed.

mod conversations;
mod errors;
mod files;
mod grammar;
mod jinja;
mod output;
mod streaming;
mod text;

/// One codec serves all threads; what it makes for a request can be sent to another.
#[test]
fn codecs_are_shared_and_parsers_are_sent() {
    fn is_shared<T: Clone + Send + Sync>() {}
    fn is_sent<T: Send>() {}
    is_shared::<tramontane::prompt::Codec>();
    is_sent::<tramontane::prompt::Detokenizer>();
    is_sent::<tramontane::prompt::OutputParser>();
    is_sent::<tramontane::prompt::PromptError>();
}
