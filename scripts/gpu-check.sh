#!/usr/bin/env bash
# What only a GPU can show, in one call: that the kernels and the decoder compute there what they compute on the emulated
# device, that compute-sanitizer finds nothing, and how fast they are. What is missing here: benches/results/UNMEASURED.md.
#
#     scripts/gpu-check.sh build          # where nvcc is: programs for the GPU's host, into target/gpu-check/
#     scripts/gpu-check.sh run [OUT]      # where the GPU is: needs no compiler and no network; results go to OUT
#
# `run` ends with code 0 if all checks passed; it measures in any case.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=target/gpu-check

build() {
    set -e
    eval "$(scripts/cuda-toolkit.sh)"
    rm -rf "$folder" && mkdir -p "$folder"
    cargo build --release --features cuda
    cp "${CARGO_TARGET_DIR:-target}/release/tramontane" "$folder/"
    local messages
    messages=$(mktemp)
    cargo test --release --no-run --features cuda --message-format json >"$messages"
    cargo bench --no-run --features cuda --bench gpu --message-format json >>"$messages"
    python3 - "$folder" <"$messages" <<'PYTHON'
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] != ["bin"]:
        package = message["package_id"].split("#")[0].rsplit("/", 1)[-1]
        shutil.copy(message["executable"], f"{sys.argv[1]}/{package}-{message['target']['name']}")
PYTHON
    rm "$messages"
    strip "$folder"/*
    ls -l "$folder"
}

failed=()
check() {
    local name=$1
    shift
    echo "== $name"
    if "$@" >"$out/$name.log" 2>&1 && ! grep -q '^test result: ok. 0 passed' "$out/$name.log"; then
        grep -E '^(test result|[0-9]+ of)' "$out/$name.log" || true
    else
        tail -n 30 "$out/$name.log"
        failed+=("$name")
    fi
}

run() {
    out=${1:-benches/results}
    mkdir -p "$out"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
    "$folder/tramontane" doctor
    export TRAMONTANE_TEST_DEVICE=cuda
    local kernels lib it
    kernels=$(ls "$folder"/kernels-*kernels)
    lib=$(ls "$folder"/*-tramontane)
    it=$(ls "$folder"/*-it)
    check kernels "$kernels" cuda_tests --test-threads 4
    check decoder "$lib" gpu
    check goldens "$it" golden_cuda --nocapture
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            check "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$kernels" cuda_tests::sanitized --test-threads 1
        done
    else
        echo "== compute-sanitizer: NOT RUN, it is not installed here"
        failed+=(compute-sanitizer)
    fi
    unset TRAMONTANE_TEST_DEVICE
    local card
    card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -c 'A-Za-z0-9\n' '-')
    check measurements "$(ls "$folder"/*-gpu)" "$out/gpu-$card.json"
    cat "$out/gpu-$card.json"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}"
        exit 1
    fi
}

case ${1:-} in
build) build ;;
run) run "${2:-}" ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
