#!/usr/bin/env bash
# What only a GPU can show, in one call: that the kernels and the decoder compute there what they compute on the emulated
# device, that compute-sanitizer finds nothing, and how fast they are, alone, through HTTP and beside PyTorch. What is
# missing here: benches/results/UNMEASURED.md.
#
#     scripts/gpu-check.sh build            # where nvcc is: programs for the GPU's host, into target/gpu-check/
#     scripts/gpu-check.sh run [OUT]        # where the GPU is: no compiler, no network; gpu-CARD.json and .md go to OUT
#     scripts/gpu-check.sh rehearse [OUT]   # anywhere: the same measuring on a processor, whose figures mean nothing
#
# `run` takes less than ten minutes, and 15 GB below TMPDIR, else in /dev/shm where 40 GB are free there, else in /tmp. It
# needs Python 3.10, and ends with code 0 if all checks passed; it measures in any case. PYTHON names the interpreter that
# is asked for PyTorch (python3); without PyTorch its figures are absent. LIMIT_S is another limit, in seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=target/gpu-check
limit_s=${LIMIT_S:-570} # of all parts together; each has its own besides
failed=()

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
    python3 - "$folder" "$messages" <<'PYTHON'
import json, shutil, sys
for line in open(sys.argv[2]):
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] != ["bin"]:
        package = message["package_id"].split("#")[0].rsplit("/", 1)[-1]
        shutil.copy(message["executable"], f"{sys.argv[1]}/{package}-{message['target']['name']}")
PYTHON
    rm "$messages"
    strip "$folder"/*
    git describe --always --abbrev=40 --dirty >"$folder/commit"
    nvcc --version | sed -n 's/.* V//p' >"$folder/toolkit"
    # Hosts of GPUs rarely have it; without it `run` says so.
    python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$folder" \
        nvidia-cuda-sanitizer-api==13.0.85 || echo "compute-sanitizer could not be fetched"
    ls -l "$folder"
}

# limited SECONDS COMMAND...: with that much time, or what is left of all.
limited() {
    local left=$((limit_s - SECONDS)) most=$1
    shift
    if [ "$left" -lt 5 ]; then
        echo "no time left"
        return 124
    fi
    timeout --kill-after 30 "$((most < left ? most : left))" "$@"
}

# check NAME SECONDS COMMAND...: its output goes to a log; the end of it is shown if it fails.
check() {
    local name=$1 most=$2
    shift 2
    echo "== $name"
    local began=$SECONDS
    if limited "$most" "$@" >"$out/$name.log" 2>&1 && ! grep -q '^test result: ok. 0 passed' "$out/$name.log"; then
        grep -E '^(test result|[0-9]+ of)' "$out/$name.log" || true
    else
        tail -n 30 "$out/$name.log"
        failed+=("$name")
    fi
    echo "$((SECONDS - began)) s"
}

not_run() {
    echo "== $1: NOT RUN, $2"
}

# served SHAPE PROGRAM ARGUMENTS...: a random checkpoint, measured through HTTP.
served() {
    local shape=$1
    shift
    check checkpoint 90 python3 scripts/random_checkpoint.py "$shape" "$work/$shape"
    check http 200 python3 scripts/measure_http.py "$1" "$work/$shape" "$work/http.json" --limit-s 180 \
        --log "$out/serve.log" "${@:2}"
    rm -rf "${work:?}/$shape"
}

# beside_torch CONDITION ARGUMENTS...
beside_torch() {
    local python=${PYTHON:-python3} condition=$1
    shift
    if "$python" -c "import sys, torch; sys.exit(not ($condition))" 2>/dev/null; then
        check pytorch 90 "$python" scripts/neighbour_torch.py "$work/torch.json" "$@"
    else
        not_run pytorch "$python has no torch here for which $condition"
    fi
}

sanitized() {
    local kernels=$1 wheel sanitizer
    sanitizer=$(command -v compute-sanitizer)
    wheel=$(ls "$folder"/nvidia_cuda_sanitizer_api-*.whl 2>/dev/null)
    if [ -z "$sanitizer" ] && [ -n "$wheel" ]; then
        python3 -m zipfile -e "$wheel" "$work/sanitizer"
        sanitizer=$work/sanitizer/nvidia/cu13/bin/compute-sanitizer
        chmod +x "$sanitizer"
    fi
    if [ -z "$sanitizer" ]; then
        not_run compute-sanitizer "it is neither installed here nor was it carried along"
        failed+=(compute-sanitizer)
        return
    fi
    local tool
    for tool in memcheck racecheck; do
        check "sanitizer-$tool" 75 env TRAMONTANE_TEST_DEVICE=cuda \
            "$sanitizer" --tool "$tool" --error-exitcode 9 "$kernels" cuda_tests::sanitized --test-threads 1
    done
}

# Errors that both tools counted; nothing if one of them did not come to its end.
sanitizer_errors() {
    cat "$out"/sanitizer-*.log 2>/dev/null | grep -oE '(ERROR|RACECHECK) SUMMARY: [0-9]+' |
        awk '{ errors += $3 } END { if (NR == 2) print errors }'
}

# report NAME FACT...: all parts in one file, and the table.
report() {
    local name=$1 facts=() fact
    shift
    for fact in "$@"; do
        facts+=(--fact "$fact")
    done
    python3 scripts/gpu_report.py "$out/$name.json" "$work"/{bench,http,torch}.json "${facts[@]}" || failed+=(report)
    echo "$SECONDS s in all; $out/$name.json, $out/$name.md"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}"
        exit 1
    fi
}

begin() {
    out=$1
    mkdir -p "$out"
    rm -f "$out"/sanitizer-*.log
    work=$(mktemp -d "$(roomy)/gpu-check-XXXXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# Where 15 GB can be written: memory, if there is enough of it, for disks can take minutes.
roomy() {
    local free_kib
    free_kib=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)
    if [ -z "${TMPDIR:-}" ] && [ "${free_kib:-0}" -gt $((40 << 20)) ]; then
        echo /dev/shm
    else
        echo "${TMPDIR:-/tmp}"
    fi
}

# cuBLASLt comes with a toolkit or with PyTorch, whose folders are rarely in the library path.
find_cublas() {
    local found
    found=$(find / -xdev -name libcublasLt.so.13 2>/dev/null | head -n 1)
    if [ -n "$found" ]; then
        export LD_LIBRARY_PATH="$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
    echo "cuBLASLt: ${found:-not found, our own kernels compute prompts}"
}

of_card() {
    nvidia-smi --query-gpu="$1" --format=csv,noheader | head -n 1
}

run() {
    begin "${1:-benches/results}"
    find_cublas
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
    "$folder/tramontane" doctor
    local kernels lib it
    kernels=$(ls "$folder"/kernels-*kernels)
    lib=$(ls "$folder"/*-tramontane)
    it=$(ls "$folder"/*-it)
    local seed=$((RANDOM << 40)) # beyond the seeds of the tests
    check kernels 90 env TRAMONTANE_TEST_DEVICE=cuda TRAMONTANE_TEST_SEED=$seed "$kernels" cuda_tests --test-threads 4
    # One at a time: what one does with the GPU's context ends the recording of another.
    check decoder 90 env TRAMONTANE_TEST_DEVICE=cuda "$lib" gpu --test-threads 1
    check goldens 90 env TRAMONTANE_TEST_DEVICE=cuda "$it" golden_cuda --nocapture --test-threads 1
    check engine 60 env TRAMONTANE_TEST_DEVICE=cuda "$it" engine_mix::a_gpu --test-threads 1
    check measurements 120 "$(ls "$folder"/*-gpu)" "$work/bench.json"
    served 7b "$folder/tramontane" --device cuda
    beside_torch 'torch.cuda.is_available()'
    sanitized "$kernels"
    local card
    card=$(of_card name)
    report "gpu-$(tr -c 'A-Za-z0-9\n' '-' <<<"$card")" "card=$card" "driver=$(of_card driver_version)" \
        "date=$(date -u +%Y-%m-%d)" "commit=$(cat "$folder/commit")" "toolkit=$(cat "$folder/toolkit")" \
        "sanitizer_errors=$(sanitizer_errors)" "test_seed=$seed"
}

# The kernels' and the decoder's tests on the emulated device are part of `cargo test`.
rehearse() {
    cargo build && cargo test --no-run --bench gpu || exit
    SECONDS=0
    begin "${1:-$(mktemp -d)}"
    python3 -m doctest scripts/gpu_report.py scripts/load_http.py || failed+=(doctest)
    check measurements 60 bash -c 'cargo test --quiet --bench gpu -- --emulated >"$0"' "$work/bench.json"
    served tiny "${CARGO_TARGET_DIR:-target}/debug/tramontane" --device cpu --small
    check ceiling 30 python3 scripts/load_http.py ceiling --concurrency 64 --output-tokens 200
    beside_torch True --tiny --device cpu
    report gpu-rehearsed "card=none, a rehearsal: no figure means anything" "date=$(date -u +%Y-%m-%d)" \
        "commit=$(git describe --always --abbrev=40 --dirty)"
}

case ${1:-} in
build) build ;;
run) run "${2:-}" ;;
rehearse) rehearse "${2:-}" ;;
*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
