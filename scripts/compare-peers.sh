#!/usr/bin/env bash
# Measures this server beside llama.cpp, mistral.rs and vLLM on a CPU: the same random model of 1 B parameters, the same
# load, one server at a time, engine after engine in every round. Writes benches/results/cpu-peers.json and .md.
#
#     cargo build --release
#     scripts/compare-peers.sh --install-only        # peers from the Python package index, the model, the GGUF files
#     scripts/compare-peers.sh --engines tramontane,llama.cpp,vllm --scenarios decode,prefill,c4,c16 --rounds 3
#     scripts/compare-peers.sh --smoke               # every engine answers every scenario once, with short texts
#     scripts/compare-peers.sh --help
#
# Nothing else should run meanwhile; `foreign_cores` in the results says what did. An interrupted run goes on where it
# stopped when it is called again. Needs Python 3.10, a C++ compiler for llama.cpp, and 15 GB of disk in --peers-dir
# (target/peers), most of it for vLLM. PYTHON names the interpreter, which has to be one that the peers have wheels for.
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "$python is older than Python 3.10; name another one with PYTHON" >&2
    exit 2
fi
exec "$python" -B "$folder/compare_peers" "$@"
