#!/usr/bin/env bash
# One call on a machine with a GPU: builds, tests, sanitises, benchmarks, and leaves the results in a folder.
#
#   tools/gpu_check.sh OUT [STEP...]
#
# Steps: build about tests indices memcheck racecheck initcheck synccheck bench; all unless some are named. Uses the
# Python that is active (PYTHON=… for another), which must have torch with CUDA and may be offline: nothing is
# downloaded. Every step runs even when an earlier one failed; the exit status says whether all passed.
set -uo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,8p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
wanted=" $* "
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
failed=0

step() {  # NAME COMMAND...: runs it, keeps its output, says how it went
  local name=$1 begin=$SECONDS
  shift
  [[ $wanted == "  " || $wanted == *" $name "* ]] || return
  if "$@" >"$out/$name.log" 2>&1; then
    printf 'ok      %-12s %4d s\n' "$name" $((SECONDS - begin))
  else
    printf 'FAILED  %-12s %4d s  (%s)\n' "$name" $((SECONDS - begin)) "$out/$name.log"
    tail -n 25 "$out/$name.log"
    failed=1
  fi
}

capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2>/dev/null) || {
  echo "error: this Python has no torch that sees a GPU" >&2
  exit 2
}
export SIGE_CUDA=1 SIGE_CUDA_ARCHS=${SIGE_CUDA_ARCHS:-$capability}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

{ nvidia-smi; nvcc --version; "$python" -m pip list; git describe --always --dirty; } >"$out/machine.log" 2>&1
step build "$python" setup.py --quiet build_ext --inplace
step about "$python" -m sige
step tests "$python" -m pytest -p no:cacheprovider tests
step indices env SIGE_CHECK_INDICES=1 "$python" -m pytest -p no:cacheprovider tests/ops -k cuda

# The sanitizers slow every kernel down many times: parity on the samples covers each kernel once.
sanitized=(-m pytest -p no:cacheprovider tests/ops/test_parity.py -k "cuda and equals")
for tool in memcheck racecheck initcheck synccheck; do
  step "$tool" timeout 240 \
    compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 120 "$python" "${sanitized[@]}"
done
step bench "$python" -m benchmarks --device cuda --dtypes fp32,fp16,bf16 --out "$out/bench"
# A file per benchmark would be many to fetch: one archive of all.
tar -C "$out" -czf "$out/results.tar.gz" --exclude results.tar.gz .
exit $failed
