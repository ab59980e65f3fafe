//! Tokens to text, one at a time, as every generated token of every stream passes through it; and text to
//! tokens, as every prompt does. Run with `cargo bench --bench detokenizer`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod fixtures;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tramontane::prompt::{SpecialTokens, ToolsOffered};

use fixtures::codec;

/// Words, code, accents, characters of three bytes and of four.
const SAMPLE: &str = "The mistral blows from the north-west; la tramontane vient de plus loin encore. \
                      fn main() { println!(\"{}\", 1 + 2); }\n\tПривет, мир! 北風は冷たい。 🌬️🍃 naïve café, 3.14159.\n";

fn benchmarks(criterion: &mut Criterion) {
    for (name, codec) in [("tekken", codec("v3-tekken")), ("sentencepiece", codec("v3-spm"))] {
        let text = SAMPLE.repeat(16);
        let ids = codec.encode_text(&text, false);
        assert_eq!(codec.decode(&ids, SpecialTokens::Skip), text);

        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(ids.len() as u64));
        group.bench_function("detokenize", |bencher| {
            bencher.iter(|| {
                let mut detokenizer = codec.detokenizer(SpecialTokens::Skip, &[]);
                for id in &ids {
                    black_box(detokenizer.push(*id));
                }
                detokenizer.finish()
            });
        });
        group.bench_function("parse output", |bencher| {
            bencher.iter(|| {
                let mut parser = codec.output_parser(ToolsOffered::Yes);
                for id in &ids {
                    black_box(parser.push(*id));
                }
                parser.finish()
            });
        });
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("encode", |bencher| bencher.iter(|| codec.encode_text(black_box(&text), false)));
        group.finish();
    }
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
