#!/usr/bin/env bash
# Measures metajax on one NVIDIA GPU in at most 12 minutes. The most important parts run first, and each writes its
# file as soon as it has a result, so that a run that is cut short leaves what it has measured.
#
#   benchmarks/gpu.sh wheels WHEELS     # with a network: downloads the packages that the GPU's machine lacks
#   benchmarks/gpu.sh run OUT [WHEELS]  # on the GPU's machine: Python 3.12 and JAX with CUDA, no network
#   benchmarks/gpu.sh rehearse OUT      # the kernels and a reference program at their smallest sizes, on any device
#
# OUT gets parts.txt (exit code and seconds of each part), a log and mostly a JSON file of each part, and compiled.tgz,
# the compiled programs. A later run that finds compiled.tgz in WHEELS compiles only short programs again.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-700} # seconds for all parts
MISSING=(
    gymnax six gymnasium farama-notifications cloudpickle tyro docstring-parser typeguard rich safetensors xminigrid
    seaborn pandas pytz tzdata matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil pillow
    packaging # gymnax imports seaborn and matplotlib
)

usage() {
    sed -n '5,7s/^# *//p' "$0" >&2
    exit 2
}

# part NAME SECONDS COMMAND...: runs a part within its seconds and those that are left, or says that none are left.
part() {
    local name=$1 seconds=$2 left=$((LIMIT - SECONDS)) start=$SECONDS code
    shift 2
    if ((left < 20)); then
        echo "$name: no time left" | tee -a "$OUT/parts.txt"
        failed=1
        return 1
    fi
    timeout -k 10 $((seconds < left ? seconds : left)) "$@" > "$OUT/$name.log" 2>&1
    code=$?
    echo "$name: exit code $code after $((SECONDS - start)) s" | tee -a "$OUT/parts.txt"
    failed=$((failed || code))
    return $code
}

bench() {
    local name=$1 seconds=$2
    shift 2
    part "$name" "$seconds" "$PYTHON" -m metajax bench --no-split --out "$OUT/$name.json" --programs "$@"
}

[[ $# -ge 2 ]] || usage
case $1 in
wheels)
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --dest "$2" "${MISSING[@]}"
    exit
    ;;
run | rehearse) ;;
*) usage ;;
esac
mkdir -p "$2"
OUT=$(cd "$2" && pwd)
WHEELS=${3:-}
failed=0
: > "$OUT/parts.txt"
export JAX_COMPILATION_CACHE_DIR; JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(mktemp -d)}
if [[ -n $WHEELS ]]; then
    "$PYTHON" -m pip install --quiet --no-deps --no-index "$WHEELS"/*.whl || exit 1
    [[ -f $WHEELS/compiled.tgz ]] && tar xzf "$WHEELS/compiled.tgz" -C "$JAX_COMPILATION_CACHE_DIR"
fi

if [[ $1 == rehearse ]]; then
    part kernels 600 "$PYTHON" benchmarks/kernels.py --small --out "$OUT/kernels.json"
    bench reference-programs 600 rl2-gru --sizes 1
else
    nvidia-smi > "$OUT/nvidia-smi.log" || {
        echo "no NVIDIA GPU is found; 'rehearse' tries the script without one" >&2
        exit 1
    }
    part kernels 120 "$PYTHON" benchmarks/kernels.py --out "$OUT/kernels.json"
    bench reference-programs 180 rl2-gru maml-gradient --sizes 1 256 4096 65536 --kernels
    bench memories 120 rl2-s5 rl2-transformer --sizes 256 4096
    bench trust-regions 120 maml-trpo promp --sizes 256 4096
    # By default JAX multiplies float32 with TensorFloat-32 on an NVIDIA GPU.
    JAX_DEFAULT_MATMUL_PRECISION=float32 bench float32 60 rl2-gru maml-gradient --sizes 4096
    part learning 120 "$PYTHON" benchmarks/rl2_tables.py bandit-5-10 &&
        mv benchmarks/results/rl2/bandit-5-10.json "$OUT/learning.json"
    git checkout -q benchmarks/results/rl2/bandit-5-10.json 2> /dev/null # the published result
    part peers 60 "$PYTHON" benchmarks/peers.py xminigrid  # rejax needs a network, for an environment of its own
    # The rest of the time trains pieces of long rows, which go on from what the checkout has.
    part scale "$LIMIT" "$PYTHON" benchmarks/scale.py --all --minutes $(((LIMIT - SECONDS) / 60))
    tar czf "$OUT/scale.tgz" -C benchmarks/results scale policies
fi
tar czf "$OUT/compiled.tgz" -C "$JAX_COMPILATION_CACHE_DIR" .
exit $failed
