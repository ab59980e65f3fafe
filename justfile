# The steps of CI, by name: `just ci` is what `.ci/run` runs.

default: fmt clippy doc test deny

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# The same with the code for NVIDIA GPUs; needs nvcc.
clippy-cuda:
    eval "$(scripts/cuda-toolkit.sh)" && cargo clippy --workspace --all-targets --features cuda --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --lib --examples --locked

test:
    cargo test

# Licences, bans and sources; `cargo deny check advisories` also needs the advisory database.
deny:
    cargo deny check bans licenses sources

# The release binary serves the built-in model once.
smoke:
    bash .ci/smoke

bench:
    cargo bench

ci:
    bash .ci/run
