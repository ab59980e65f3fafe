//! Tokens to text, one at a time, as every generated token of every stream passes through it; and text to
//! tokens, as every prompt does. Run with `cargo bench --bench detokenizer`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::{fs::File, hint::black_box, io::Read, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tramontane::prompt::{Codec, SpecialTokens, TekkenFile, TokenizerVersion, ToolsOffered};

/// Words, code, accents, characters of three bytes and of four.
const SAMPLE: &str = "The mistral blows from the north-west; la tramontane vient de plus loin encore. \
                      fn main() { println!(\"{}\", 1 + 2); }\n\tПривет, мир! 北風は冷たい。 🌬️🍃 naïve café, 3.14159.\n";

fn benchmarks(criterion: &mut Criterion) {
    for (name, codec) in [("tekken", tekken()), ("sentencepiece", sentencepiece())] {
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

fn tekken() -> Codec {
    let file = TekkenFile::parse(&tokenizer_file("tekken.json.gz"), "tekken.json").expect("a valid file");
    Codec::from_tekken(&file, None).expect("a known version")
}

fn sentencepiece() -> Codec {
    let bytes = tokenizer_file("tokenizer.model.v3.gz");
    Codec::from_sentencepiece(&bytes, TokenizerVersion::V3, "tokenizer.model.v3").expect("a valid file")
}

fn tokenizer_file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name);
    let mut plain = Vec::new();
    let file = File::open(&path).expect("the tokenizers are in the repository");
    flate2::read::GzDecoder::new(file).read_to_end(&mut plain).expect("valid gzip");
    plain
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
