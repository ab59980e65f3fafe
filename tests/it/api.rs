//! The HTTP interface over the real engine and a scripted model: through the router where one request is
//! enough, over loopback sockets where connections matter.

mod agents;
mod background;
mod batch_faults;
mod batch_jobs;
mod batch_storage;
mod batches;
mod chat;
mod completions;
mod conversations;
mod effects;
mod embeddings;
mod errors;
mod fields;
mod files;
mod fim;
mod following;
mod handoffs;
mod http2;
mod isolation;
mod limits;
mod malformed;
mod mistral;
mod mistral_conversations;
mod moderations;
mod openapi;
mod operations;
mod references;
mod responses;
mod server;
mod similarity;
mod storage;
mod structured;
mod support;
mod unserved;
mod versions;
