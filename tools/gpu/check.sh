#!/usr/bin/env bash
# Tests and benchmarks on a GPU, printed as one table: the op matrix, parity with the reference, klein-mini, all GPUs at
# once. Then times pictures with random weights of klein-4b's size, alone and eight together, with and without reference
# images, in bf16 and fp8, and within the memory of small GPUs.
#
#   tools/gpu/check.sh DJ_FLUX2 OPS_TESTS [FLUX2_TESTS [JOBS_TESTS]]
#
# Needs the program and the test binaries, built elsewhere. Needs neither Rust nor a network:
#
#   cargo build --release
#   cargo test --workspace --no-run      prints target/debug/deps/it-…, one each of flux2-backend, flux2, flux2-jobs
#
# FLUX2_TESTS and JOBS_TESTS read files of the repository: below the folder they were built in, or below the current
# folder on a machine that has none there. Exit code 1 if anything failed.
#
# LOGS=FOLDER    keeps the outputs there
# MODEL=FOLDER   a checkpoint, to time a process from start to its first picture; tools/gpu/peers.py --save writes one
#                with random weights
#
# Times are in seconds, medians of five pictures with everything loaded and warm. `step` is the mean of the four steps,
# with its percentage of the roofline measured in the same run. `idle` is the time the GPU waited for the host between
# the steps, `else` the time outside all stages.
set -uo pipefail
export DJ_FLUX2_REQUIRE_GPU=1 # a GPU test that would be skipped fails
program=$1 ops=$2 parity=${3:-} jobs=${4:-}
logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"
failed=0

row() { printf '%-38s %-8s %s\n' "$1" "$2" "$3"; }

fail() { # name, reason
    failed=1
    row "$1" FAILED "$2"
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

tests() { # name, program, filters
    local name=$1 log=$logs/$1.log
    if ! "${@:2}" > "$log" 2>&1; then
        fail "$name" "$(grep -m 1 'panicked' -A 1 "$log" | tr '\n' ' ')"
    elif ! grep -q '^test result: ok. [1-9]' "$log"; then
        fail "$name" "no test ran"
    else
        row "$name" ok "$(grep -m 1 '^test result' "$log" | sed 's/^test result: ok. //')"
    fi
}

numbers() { # a line of `bench generate --json`
    awk '
        function field(name, text) { # the value of a key, without brackets
            text = $0
            sub(".*\"" name "\":\\[?", "", text)
            sub(/[\]}].*|,"[a-z].*/, "", text)
            return text
        }
        {
            count = split(field("step_s"), steps, ",")
            for (i in steps) sum += steps[i]
            total = field("total_s") - field("load_s")
            rest = total - field("text_s") - field("reference_s") - sum - field("decode_s")
            printf "total %.3f  text %.3f  references %.3f  ", total, field("text_s"), field("reference_s")
            printf "step %.4f (%s %%)  idle %.6f  ", sum / count, field("step_percent_of_roofline"), field("idle_s")
            printf "decode %.4f  else %.4f\n", field("decode_s"), rest
        }' "$1"
}

picture() { # name, side, dtype, more arguments
    local name="klein-4b $1 $3" log=$logs/klein-4b-${1// /-}-$3.json
    if "$program" bench generate --synthetic klein-4b -W "$2" -H "$2" --dtype "$3" --device cuda --resident --warmup 2 \
        --runs 5 --json -q "${@:4}" > "$log" 2> "$log.err"; then
        row "$name" ok "$(numbers "$log")"
    else
        fail "$name" "$(head -n 1 "$log.err")"
    fi
}

limited() { # dtype, limit in GB: the peak that nvidia-smi reports must be within the limit
    local name="klein-4b 1024x1024 $1, $2 GB" log=$logs/klein-4b-$1-$2GB.json sampler peak
    nvidia-smi -i 0 --query-gpu=memory.used --format=csv,noheader,nounits -lms 20 > "$log.memory" &
    sampler=$!
    if "$program" bench generate --synthetic klein-4b -W 1024 -H 1024 --dtype "$1" --device cuda --resident --warmup 2 \
        --runs 3 --max-memory "$2GB" --json -q > "$log" 2> "$log.err"; then
        peak=$(sort -n "$log.memory" | tail -n 1)
        if [ $((peak * 1024 * 1024)) -le $(($2 * 1000 * 1000 * 1000)) ]; then
            row "$name" ok "$(numbers "$log")  taken $peak MiB"
        else
            fail "$name" "$peak MiB were taken"
        fi
    else
        fail "$name" "$(head -n 1 "$log.err")"
    fi
    kill "$sampler"
    wait "$sampler" 2> /dev/null
}

first_picture() { # name, log, command: wall time of a process
    local name=$1 log=$2 start
    start=$(milliseconds)
    if "${@:3}" > "$log" 2> "$log.err"; then
        row "$name" ok "$(($(milliseconds) - start)) ms from start to picture"
    else
        fail "$name" "$(head -n 1 "$log.err")"
    fi
}

"$program" doctor
echo
tests op-matrix "$ops" cuda --nocapture --test-threads 1
[ -z "$parity" ] || tests parity "$parity" parity --nocapture --test-threads 1
[ -z "$parity" ] || tests gpu "$parity" gpu --nocapture --test-threads 1
[ -z "$jobs" ] || tests jobs "$jobs" cuda --nocapture --test-threads 1

mini=("$program" "a cat on a blue background" -S 7 --device cuda -q)
# The first process compiles kernels for this GPU, unless they are cached.
first_picture "klein-mini" "$logs/mini.log" "${mini[@]}" -o "$logs/cat.png"
first_picture "klein-mini, again" "$logs/mini.log" "${mini[@]}" -o "$logs/cat.png"
first_picture "klein-mini 512x512, for references" "$logs/reference.log" \
    "${mini[@]}" -W 512 -H 512 -o "$logs/reference.png"

mkdir -p "$logs/one" "$logs/all"
eight() { # folder, device
    "$program" "a cat on a blue background" -n 8 -S 7 --device "$2" -q -o "$logs/$1/cat.png" \
        > /dev/null 2> "$logs/$1.log"
}
if eight one cuda:0 && eight all cuda && diff -r "$logs/one" "$logs/all" > "$logs/several.log"; then
    row "klein-mini, 8 on all GPUs" ok "the files of cuda:0; $("$program" doctor | grep -c '^GPU ') GPUs"
else
    failed=1
    reason=$(tail -qn 1 "$logs/one.log" "$logs/all.log" "$logs/several.log" | tr '\n' ' ')
    row "klein-mini, 8 on all GPUs" FAILED "$reason"
fi

for dtype in bf16 fp8; do
    for side in 1024 2048; do picture "${side}x$side" "$side" "$dtype"; done
    for side in 256 512; do
        picture "${side}x$side" "$side" "$dtype"
        picture "${side}x$side, 8 together" "$side" "$dtype" --batch 8
    done
    picture "1024x1024, 1 reference" 1024 "$dtype" -i "$logs/reference.png"
    picture "1024x1024, 4 references" 1024 "$dtype" -i "$logs/reference.png" -i "$logs/reference.png" \
        -i "$logs/reference.png" -i "$logs/reference.png"
    if [ -n "${MODEL:-}" ]; then
        # The first run reads the files into the page cache.
        for time in "not cached" "cached"; do
            first_picture "1024x1024 $dtype, files $time" "$logs/first-$dtype.log" "$program" "a red fox" -m "$MODEL" \
                --device cuda --dtype "$dtype" -W 1024 -H 1024 -q -o "$logs/first-$dtype.png"
        done
    fi
done
for limit in "bf16 12" "fp8 8" "bf16 6"; do limited ${limit% *} ${limit#* }; done
exit $failed
