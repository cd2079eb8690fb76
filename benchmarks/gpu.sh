#!/bin/bash
# What has to be measured on a GPU, in under nine minutes: scoring, rollouts with every engine, GRPO and SFT steps of
# whisper-small's and large-v3's shape in bf16; whether FSDP2, fp16 and DeepSpeed's ZeRO 2 and 3 train there at all; and
# how near `audiorl estimate` comes.
#
#     benchmarks/gpu.sh                 # one CUDA device; tables at the end, and in benchmarks/results/gpu-DATE/
#     benchmarks/gpu.sh --tiny          # the same script on a CPU with toy shapes: does it still work?
#     benchmarks/gpu.sh --dry           # only says what it would run
#
# Run it from a checkout in which `pip install -e .` was done; DeepSpeed's lines are left out where it is not installed.
# A line that fails or takes too long is told at the end, and the others go on. OUT=folder puts the results elsewhere,
# PYTHON=path chooses the interpreter. Weights are random, clips are noise: nothing is downloaded.
set -u
cd "$(dirname "$0")/.." || exit 1

mode=${1:-}
case "$mode" in "" | --tiny | --dry) ;; *) echo "gpu.sh knows --tiny and --dry, not $mode" >&2 && exit 2 ;; esac
python=${PYTHON:-python}
out=${OUT:-benchmarks/results/gpu-$(date -u +%Y-%m-%d)}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
limit=535 # seconds after which nothing is left running
failed=()

if [ "$mode" = --tiny ]; then
    limit=100000
    device=cpu half=float32 autocast=float32 repeats=1 tokens=12 small=toy large=toy
    export CUDA_VISIBLE_DEVICES= DS_ACCELERATOR=cpu
else
    device=cuda half=bfloat16 autocast=bf16 repeats=3 tokens=60 small=small large=large-v3
fi

# line NAME SECONDS COMMAND...: run it and keep what it says in $out/NAME.log
line() {
    local name=$1 most=$2
    shift 2
    if [ "$mode" = --dry ]; then
        echo "$name: $*"
        return
    fi
    local left=$((limit - SECONDS))
    if [ "$left" -le 10 ]; then
        failed+=("$name: no time left")
        return
    fi
    echo "== $name ($SECONDS s)"
    local begun=$SECONDS
    timeout "$((most < left ? most : left))" "$@" >"$out/$name.log" 2>&1
    local code=$?
    [ "$code" -eq 0 ] || failed+=("$name: exit code $code after $((SECONDS - begun)) s, see $out/$name.log")
}

# measure NAME SECONDS SCRIPT OPTIONS...: a benchmark of this folder with its JSON in $out/NAME.json
measure() {
    local name=$1 most=$2 script=$3
    shift 3
    line "$name" "$most" "$python" "benchmarks/$script.py" --device "$device" --threads "${THREADS:-2}" "$@" --out "$out/$name.json"
}

# train NAME SECONDS CONFIG FLAGS...: a few DPO steps of the demo's model under a launch config
train() {
    local name=$1 most=$2 config=$3
    shift 3
    line "$name" "$most" "$python" -m accelerate.commands.launch --config_file "examples/accelerate_configs/$config.yaml" \
        --num_processes 1 "$@" -m audiorl dpo --model_name_or_path audiorl/demo/checkpoint --dataset_name "$out/rows/pairs.jsonl" \
        --output_dir "$out/runs/$name" --max_steps 3 --logging_steps 1 --report_to none
}

if [ "$mode" != --dry ]; then
    rm -rf "$out/runs"
    mkdir -p "$out/rows" && "$python" benchmarks/gpu_tables.py --write-rows "$out/rows" || exit 1
fi

measure "scoring-$small" 90 scoring --shape "$small" --precision "$half" --hypotheses 2 8 --clips 4 --tokens "$tokens" --repeats "$repeats"
measure "rollout-$small" 90 rollout --shape "$small" --precision "$half" --hypotheses 8 --clips 8 --tokens "$tokens" --repeats "$repeats"
measure "grpo_step-$small" 60 grpo_step --shape "$small" --precision "$half" --hypotheses 8 --clips 4 --tokens "$tokens" --repeats "$repeats" --frozen-encoder
measure "sft_step-$small" 60 sft_step --shape "$small" --precision "$half" --clips 16 --tokens "$tokens" --repeats "$repeats"
measure "estimate-$small" 90 estimate --shape "$small" --precision "$autocast" --tokens "$tokens" --repeats 1
if [ "$mode" != --tiny ]; then
    measure "scoring-$large" 90 scoring --shape "$large" --precision "$half" --hypotheses 8 --clips 2 --tokens "$tokens" --repeats "$repeats"
    measure "rollout-$large" 90 rollout --shape "$large" --precision "$half" --hypotheses 8 --clips 4 --tokens "$tokens" --repeats "$repeats"
    measure "grpo_step-$large" 90 grpo_step --shape "$large" --precision "$half" --hypotheses 8 --clips 2 --tokens "$tokens" --repeats "$repeats" --frozen-encoder
    measure "sft_step-$large" 90 sft_step --shape "$large" --precision "$half" --clips 4 --tokens "$tokens" --repeats "$repeats"
    train fsdp2 60 fsdp2
    train fp16 60 ddp --mixed_precision fp16
fi
if "$python" -c "import deepspeed" 2>/dev/null || [ "$mode" = --dry ]; then
    precision=bf16
    [ "$mode" = --tiny ] && precision=no
    train zero2 90 deepspeed_zero2 --mixed_precision "$precision"
    train zero3 90 deepspeed_zero3 --mixed_precision "$precision"
else
    echo "== ZeRO 2 and 3 are left out: DeepSpeed is not installed"
fi
[ "$mode" = --dry ] && exit 0

"$python" benchmarks/gpu_tables.py "$out" | tee "$out/tables.md"
[ "${#failed[@]}" -eq 0 ] || printf 'failed: %s\n' "${failed[@]}"
echo "took $SECONDS s; everything is in $out"
[ "${#failed[@]}" -eq 0 ]
