#!/usr/bin/env bash
# Measurements on one GPU in at most ten minutes, without a network:
#   tests           those marked gpu
#   latency         coarse networks of ResNet-50 and ViT-B/16 by minibatch
#   coarsen_cost    levels of a Llama of one billion parameters in bfloat16
#   restoration     denoising of photographs in tiles of 256 pixels (needs scikit-image, scikit-learn and pillow)
#   language_model  growth of decoders of 25 and 100 million parameters on bytes (needs NETGRAPH_DATA with imdb)
#
#   NETGRAPH_DATA=... benchmarks/device.sh FOLDER          # or OUT=FOLDER benchmarks/device.sh
#   NETGRAPH_DATA=... benchmarks/device.sh --tiny FOLDER   # small sizes on a CPU, to test this script
#
# A part that fails or runs past its seconds is recorded with the end of its output, and the next one begins. Rows are JSON lines in FOLDER, and
# FOLDER/device.json joins them with the machine, the versions and the seeds. PYTHON names the interpreter.
set -uo pipefail
tiny=
[ "${1:-}" = --tiny ] && { tiny=1; shift; }
out=${1:-${OUT:-}}
[ -n "$out" ] || { echo "usage: $0 [--tiny] FOLDER" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONUNBUFFERED=1

# join what is there, also after a signal
trap '"$python" benchmarks/join_parts.py "$work" "$out"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# entry points of coarseners and rules are found in an installed package alone
if ! "$python" -c 'from importlib.metadata import version; version("netgraph-coarsening")' 2>/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-build-isolation --target "$work/site" . >&2 || exit 1
  export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
fi

# run_part NAME SECONDS COMMAND: run a part, and write down how it ended
run_part() {
  local name=$1 limit=$2 begun=$SECONDS code=0
  shift 2
  echo "== $name" >&2
  timeout -k 10 "$limit" bash -c "$*" >"$work/$name.log" 2>&1 || code=$?
  tail -n 3 "$work/$name.log" >&2
  echo "$name $code $((SECONDS - begun)) $limit" >>"$work/parts"
}

if [ -n "$tiny" ]; then
  export NETGRAPH_TEST_DEVICE=cpu OMP_NUM_THREADS=1
  device=cpu seconds=300
  latency="--networks torchvision:resnet18 --directions channels --pixels 64 --batch 1 2 --seconds 0.1"
  llama=llama_small
  images="--images 100 --tile 32 --batch 4 --rates 4e-3"
  sizes="--width 64 --rows 4 --length 32 --million 0.004"
  large=$sizes
  rates=1e-3
else
  device=cuda seconds=
  latency=
  llama=llama_1b
  images="--images 4800 --tile 256 --batch 16 --rates 2e-3 4e-3"
  sizes="--width 512 --rows 64 --length 256 --million 6"
  large="--width 1024 --rows 64 --length 256 --million 2"
  rates="5e-4 1e-3"
fi
grown='plain "one block, at 0.5 zero, asymmetric"'
[ -n "$tiny" ] || grown="$grown \"plain, 0.6 of the bytes\""

run_part tests "${seconds:-80}" "$python -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py --junitxml=$work/tests.xml"
run_part latency "${seconds:-70}" "$python benchmarks/coarsening/latency.py --device $device --dtype bfloat16 $latency --out $out/latency.jsonl"
run_part coarsen_cost "${seconds:-70}" "$python benchmarks/coarsening/coarsen_cost.py --only $llama --device $device --dtype bfloat16 --out $work/coarsen_cost.json > $out/coarsen_cost.jsonl"
run_part restoration "${seconds:-170}" "
  $python benchmarks/training/shipped_photographs.py $work/photographs || exit
  denoise=\"$python benchmarks/training/restoration.py --photographs $work/photographs --device $device $images --out $out/restoration.jsonl\"
  \$denoise --tune && \$denoise --seeds 1"
run_part language_model "${seconds:-150}" "
  grow=\"$python benchmarks/training/language_model.py --bf16 --device $device --out $out/language_model.jsonl\"
  \$grow $sizes --tune --rates $rates --only $grown && \$grow $sizes --seeds 1 --only $grown && \$grow $large --tune --rates 5e-4 --only $grown"
