#!/bin/sh
# Trains the upscaler for at most SECONDS on a machine with PyTorch, Pillow and safetensors only, from a folder that has
# beside this file: the scripts, sprites.zip, vae.safetensors, evaluate/SET/*.webp, and upscaler_state.pt to go on.
# Use:  OUT=folder sh upscaler_stage.sh SECONDS [TOTAL]
# TOTAL: seconds over all calls, if others follow; without it the learning rate falls to the end of this one.
here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:?seconds}
length=--finish
[ -n "$2" ] && length="--seconds $2"
python=${PYTHON:-$(command -v /opt/torch/.venv/bin/python || command -v python3)}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
cd "$here" || exit 1
"$python" upscaler.py --archive sprites.zip --vae vae.safetensors --out "${OUT:?}" --resume upscaler_state.pt \
    --stop-after "$seconds" $length $UPSCALER_FLAGS 2>&1 | tee "$OUT/train.log"
[ -f "$OUT/upscaler.safetensors" ] || exit 1
"$python" upscaler_evaluate.py --weights "$OUT/upscaler.safetensors" --pictures evaluate \
    --json "$OUT/figures.json" 2>&1 | tee "$OUT/table.md"
