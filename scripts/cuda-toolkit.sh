#!/usr/bin/env bash
# Installs what `nvcc` needs where there is no CUDA toolkit: NVIDIA's wheels from the Python package index, laid out
# as a CUDA_HOME in `.cuda/` (ignored by git; NVIDIA's licence does not allow passing it on).
#
#     eval "$(scripts/cuda-toolkit.sh)"            # the compiler and the headers
#     eval "$(scripts/cuda-toolkit.sh --link)"     # also the libraries that a CUDA build links, and a stub of the driver
#
# Prints the environment to use on standard output, everything else on standard error. With a system toolkit
# (nvcc on the PATH) it installs nothing and prints its CUDA_HOME.
set -euo pipefail
cd "$(dirname "$0")/.."

compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.88
    nvidia-cuda-cccl==13.0.85)
libraries=(nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35)

print_environment() {
    echo "export CUDA_HOME='$1'"
    echo "export CUDA_PATH='$1'"
    echo "export PATH='$1/bin':\"\$PATH\""
    # Build scripts ask nvidia-smi for the card unless they are told.
    echo "export CUDA_COMPUTE_CAP='${CUDA_COMPUTE_CAP:-90}'"
}

if command -v nvcc >/dev/null; then
    print_environment "$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")"
    exit
fi

wanted=("${compiler[@]}")
[ "${1:-}" = --link ] && wanted+=("${libraries[@]}")
folder=$PWD/.cuda
home=$folder/nvidia/cu13
installed=$folder/installed
# All of them at once: pip replaces a folder that two packages share. More than what is wanted is fine.
have="$(cat "$installed" 2>/dev/null || true) "
if [ "${have#"${wanted[*]} "}" = "$have" ]; then
    echo "installing ${wanted[*]}" >&2
    python3 -m pip install --quiet --no-deps --upgrade --disable-pip-version-check --root-user-action=ignore \
        --target "$folder" "${wanted[@]}" >&2
    echo "${wanted[*]}" >"$installed"
fi

# The layout that build scripts expect of a toolkit.
ln -sfn lib "$home/lib64"
for library in "$home"/lib/lib*.so.*; do
    [ -e "$library" ] && ln -sf "$(basename "$library")" "${library%%.so.*}.so"
done

# The driver's library comes with the driver. Linking needs only its names, all of which stand in its header.
stub=$home/lib/stubs/libcuda.so
if [ "${1:-}" = --link ] && [ ! -e "$stub" ]; then
    mkdir -p "$(dirname "$stub")"
    grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h" | sort -u |
        sed -E 's/.*/int &(void) { return 100; } \/* CUDA_ERROR_NO_DEVICE *\//' >"$folder/stub.c"
    cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 "$folder/stub.c" -o "$stub"
    ln -sf stubs/libcuda.so "$home/lib/libcuda.so"
fi
print_environment "$home"
