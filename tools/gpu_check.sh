#!/usr/bin/env bash
# Checks a machine with a GPU in steps of at most nine minutes, and leaves the results in a folder.
#
#   tools/gpu_check.sh OUT [STEP...]      STEP is a number, or the name of a part; all four numbers unless some are given
#   tools/gpu_check.sh --plan [STEP...]   prints each part with its limit in seconds, and runs nothing
#
#   1  ops      build, parity with the reference, indices checked, memcheck
#   2  models   property tests of whole models; UNet and decoder at 1024x1024, dense eager and compiled beside packed
#   3  kernels  products at 288 and 968 rows, SDPA's backends, the slowest kernels under ncu
#   4  edits    the embedded model by the README's commands, a whole edit of random SDXL at 1024x1024
#
# Parts by name only: tests racecheck initcheck synccheck bench. Each part runs even when an earlier one failed, is
# stopped at its limit, and prints one line; the exit status says whether all passed. A step leaves at most eight files:
# its JSONs, the logs of what failed, and results-STEP.tar.gz with everything.
#
# Uses the Python that is active (PYTHON=... for another), which must have torch with CUDA; nothing is downloaded.
# SIGE_WHEELS=FOLDER has wheels of what it lacks (perhaps diffusers, omegaconf, torchprofile, peft), with what these need.
set -uo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

python=${PYTHON:-python3}
plan=0 failed=0 step=parts
size=1024x1024

part() {  # NAME SECONDS COMMAND...: runs it for so long at most, keeps its output, says how it went
  local name=$1 limit=$2 begin=$SECONDS status
  local log=$out/$step-$name.log
  shift 2
  if [ $plan = 1 ]; then
    printf '%s %s %d\n' "$step" "$name" "$limit"
    return
  fi
  timeout -k 10 "$limit" "$@" >"$log" 2>&1
  status=$?
  if [ $status = 0 ]; then
    printf 'ok      %s %-14s %4d s\n' "$step" "$name" $((SECONDS - begin))
    return
  fi
  local why="status $status"
  [ $status -lt 124 ] || [ $status -gt 137 ] || why="stopped at its limit of $limit s, or for want of memory"
  printf 'FAILED  %s %-14s %4d s  (%s: %s)\n' "$step" "$name" $((SECONDS - begin)) "$why" "$log"
  tail -n 25 "$log"
  mv "$log" "$out/$step-$name.failed.log"
  failed=1
}

# ---- parts ----------------------------------------------------------------------------------------------------------

tests() { "$python" -m pytest -p no:cacheprovider "$@"; }  # exported, so that `timeout` can run it
bench() { "$python" -m "benchmarks.$1" --device cuda "${@:2}"; }
about_machine() {
  nvidia-smi
  nvcc --version
  "$python" -m pip list
  git describe --always --dirty
  "$python" -m sige
}
# The sanitizers slow every kernel down many times: parity on the samples covers each kernel once.
sanitized() {
  compute-sanitizer --tool "$1" --error-exitcode 9 --launch-timeout 120 \
    "$python" -m pytest -p no:cacheprovider tests/ops/test_parity.py -k "cuda and equals"
}
edit_embedded() {
  "$python" run.py --prompt "a blue house in the middle on the grass under a blue sky" --scale 4 --seed 3 \
    --init_img "$work/demo/inpainting-original.png" --mask_path "$work/demo/inpainting-mask.png" \
    --output_path "$work/demo/edit.png" --match_edge 24 --run_type sige --device cuda
}
export -f tests bench about_machine sanitized edit_embedded
run() { part "$1" "$2" bash -c '"$@"' bash "${@:3}"; }

run_build() { run build "$1" "$python" setup.py --quiet build_ext --inplace; }
run_about() { run about 20 about_machine; }
run_parity() { run parity 130 tests tests/ops -k cuda; }
run_indices() { run indices 70 env SIGE_CHECK_INDICES=1 "$python" -m pytest -p no:cacheprovider tests/ops -k cuda; }
run_memcheck() { run memcheck 200 sanitized memcheck; }
run_models() { run models 110 tests -m gpu --continue-on-collection-errors tests/models; }
run_packed() {  # NAME SECONDS FLAGS...: what is not measured 25 s before the limit is left out, and named
  run "$1" "$2" bench packed shares --dense both --modes default --size "$size" --recordings 1,3 \
    --shares 10,5,20,1,40 --runs 3 --cap $(($2 - 25)) --json "$out/$step-$1.json" "${@:3}"
}
run_unet_bf16() { run_packed unet-bf16 115 --parts unet --dtypes bf16; }
run_unet_fp16() { run_packed unet-fp16 115 --parts unet --dtypes fp16; }
run_decoder() { run_packed decoder 110 --parts decoder --dtypes bf16,fp16; }
run_products() { run products 60 bench products --dtypes bf16,fp16 --json "$out/$step-products.json"; }
run_attention() { run attention 40 bench attention_backends --dtypes bf16,fp16 --json "$out/$step-attention.json"; }
run_ncu() { run ncu 340 bench kernels --size "$size" --ncu "$work/ncu" --cap 300 --json "$out/$step-ncu.json"; }
run_demo() { run demo 150 "$python" -m sdxl.demo --device cuda --out "$work/demo" --json "$out/$step-demo.json"; }
run_edit() { run edit 50 edit_embedded; }
run_sdxl() {
  run sdxl 250 bench pipeline --dtype bf16 --size "$size" --rows dense balanced fast session \
    --json "$out/$step-sdxl.json"
}
run_tests() { run tests 1800 tests tests; }
run_racecheck() { run racecheck 240 sanitized racecheck; }
run_initcheck() { run initcheck 240 sanitized initcheck; }
run_synccheck() { run synccheck 240 sanitized synccheck; }
run_bench() { run bench 900 "$python" -m benchmarks --device cuda --dtypes fp32,fp16,bf16 --out "$work/bench"; }

# ---- steps ----------------------------------------------------------------------------------------------------------

# A machine may be a fresh one at each step, so each builds; where there is nothing to build that takes a second.
run_step() {
  step=$1
  case $1 in
    1) run_build 100; run_about; run_parity; run_indices; run_memcheck ;;
    2) run_build 90; run_models; run_unet_bf16; run_unet_fp16; run_decoder ;;
    3) run_build 90; run_products; run_attention; run_ncu ;;
    4) run_build 90; run_demo; run_edit; run_sdxl ;;
    build) step=parts; run_build 100 ;;
    *) step=parts; "run_${1//-/_}" ;;
  esac
  [ $plan = 1 ] || collect
}

collect() {  # what a step left: everything as an archive; at most eight files beside those of other steps
  cp "$out/$step"-* "$work" 2>/dev/null
  tar -C "$work" -czf "$out/results-$step.tar.gz" --exclude ./site .
  rm -f "$work"/*.json "$work"/*.log
  local files=("$out/$step"-*.json "$out/$step"-*.failed.log) kept=0 file
  for file in "$out/$step"-*; do
    [[ $file == *.json || $file == *.failed.log ]] || rm -f "$file"
  done
  for file in "${files[@]}"; do
    [ -e "$file" ] || continue
    kept=$((kept + 1))
    [ $kept -le 7 ] || rm -f "$file"
  done
}

# ---- the command ----------------------------------------------------------------------------------------------------

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  --plan) plan=1 out=. work=. ;;
  "" | -*) usage >&2; exit 2 ;;
esac
target=$1
shift
[ $# -gt 0 ] || set -- 1 2 3 4
cd "$(dirname "$0")/.." || exit 2
for wanted in "$@"; do
  [[ $wanted =~ ^[1-4]$ ]] || [[ $(type -t "run_${wanted//-/_}") == function && ! $wanted =~ ^(step|packed)$ ]] || {
    echo "error: $wanted is no step and no part: tools/gpu_check.sh --help names them" >&2
    exit 2
  }
done
if [ $plan = 1 ]; then
  for wanted in "$@"; do run_step "$wanted"; done
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$(cd "$OLDPWD" && mkdir -p "$target" && cd "$target" && pwd) || exit 2
export python work PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${SIGE_WHEELS:-}" ]; then
  export PYTHONPATH=$work/site:$PYTHONPATH
  step=wheels out=$work part install 60 "$python" -m pip install --quiet --no-index --no-deps --no-compile \
    --find-links "$SIGE_WHEELS" --target "$work/site" "$SIGE_WHEELS"/*.whl
fi
capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2>/dev/null) || {
  echo "error: this Python has no torch that sees a GPU: activate another, or name it with PYTHON=" >&2
  exit 2
}
export SIGE_CUDA=1 SIGE_CUDA_ARCHS=${SIGE_CUDA_ARCHS:-$capability}
for wanted in "$@"; do run_step "$wanted"; done
exit $failed
