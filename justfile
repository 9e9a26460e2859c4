# The commands people run here. `just` lists them.

default:
    @just --list

# Everything CI holds a change to
ci:
    bash .ci/run

# Types and lints
check:
    cargo clippy --workspace --all-targets -- -D warnings

# All tests; no network, no real weights
test *args:
    cargo test --workspace {{args}}

# Each op beside the peak of the processor
bench *args:
    cargo run --release -p dj-flux2 -- bench ops {{args}}

# How far bf16 is from f32 on a checkpoint
precision model:
    cargo run --release -p flux2 --example precision -- {{model}}

# How well klein-mini draws what it is told
evaluate *args:
    cargo run --release --example evaluate_mini -- {{args}}

# Make the golden fixtures again (Python, see tools/reference/README.md)
golden:
    python3 tools/reference/make_fixtures.py

fmt:
    cargo fmt --all
