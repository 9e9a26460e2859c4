#!/usr/bin/env bash
# What a GPU makes of this program: the op matrix, parity with the reference, klein-mini, and synthetic klein-4b timed.
#
#   tools/gpu/check.sh DJ_FLUX2 OPS_TESTS [FLUX2_TESTS]
#
# Needs the program and the test programs as they were built elsewhere, and neither Rust nor a network:
#
#   cargo build --release
#   cargo test --workspace --no-run      prints target/debug/deps/it-…, that of flux2-backend and that of flux2
#
# FLUX2_TESTS reads fixtures/ below the folder it was built in, so leave it out on another machine, or copy that folder to the
# same place. Exit code 1 if anything failed. Set LOGS to keep the outputs.
set -uo pipefail
program=$1 ops=$2 parity=${3:-}
logs=${LOGS:-$(mktemp -d)}
failed=0

row() { printf '%-34s %-8s %s\n' "$1" "$2" "$3"; }

tests() { # name, program, filters
    local name=$1 log=$logs/$1.log
    if "${@:2}" > "$log" 2>&1; then
        if grep -q '^skipped: no GPU' "$log"; then
            row "$name" skipped "$(grep -m 1 '^skipped: no GPU' "$log")"
        else
            row "$name" ok "$(grep -m 1 '^test result' "$log" | sed 's/^test result: ok. //')"
        fi
    else
        failed=1
        row "$name" FAILED "$(grep -m 1 'panicked' -A 1 "$log" | tr '\n' ' ')"
    fi
}

picture() { # side, dtype
    local log=$logs/klein-4b-$1-$2.json
    if "$program" bench generate --synthetic klein-4b -W "$1" -H "$1" --dtype "$2" --device cuda \
        --resident --warmup 2 --runs 5 --json -q > "$log" 2> "$log.err"; then
        local numbers
        numbers=$(sed -E 's/.*"text_s":([0-9.]+).*"step_s":\[([0-9.]+).*"decode_s":([0-9.]+).*"total_s":([0-9.]+).*/total \4 s: text \1, first step \2, decode \3/' "$log")
        row "klein-4b ${1}x$1 $2" ok "$numbers"
    else
        failed=1
        row "klein-4b ${1}x$1 $2" FAILED "$(tail -n 1 "$log.err")"
    fi
}

"$program" doctor
echo
tests op-matrix "$ops" cuda --nocapture --test-threads 1
[ -z "$parity" ] || tests parity "$parity" parity --nocapture --test-threads 1
start=$(date +%s%N)
if "$program" "a cat on a blue background" -S 7 --device cuda -q -o "$logs/cat.png" > /dev/null 2> "$logs/cat.log"; then
    row klein-mini ok "$((($(date +%s%N) - start) / 1000000)) ms from nothing to the file"
else
    failed=1
    row klein-mini FAILED "$(tail -n 1 "$logs/cat.log")"
fi
for side in 512 1024; do picture $side bf16; done
picture 2048 bf16
exit $failed
