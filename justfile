# Common commands; `just` lists them.

default:
    @just --list

# Everything that CI runs
ci:
    bash .ci/run

# Clippy with warnings denied
check:
    cargo clippy --workspace --all-targets -- -D warnings

# All tests; no network, no real weights
test *args:
    cargo test --workspace {{args}}

# Benchmark each op against the measured peak of the processor
bench *args:
    cargo run --release -p dj-flux2 -- bench ops {{args}}

# Error of bf16 against f32 on a checkpoint
precision model:
    cargo run --release -p flux2 --example precision -- {{model}}

# Evaluate how well klein-mini follows prompts
evaluate *args:
    cargo run --release --example evaluate_mini -- {{args}}

# Draw the pictures and plots of docs/how-it-works.md again
explain:
    cargo run --release -p flux2 --example how_it_works

# Write the generated pages of the reference, docs/reference/generated
docs:
    DJ_FLUX2_WRITE_DOCS=1 cargo test -p dj-flux2 --bin dj-flux2 generated_pages

# Build the documents as a site below target/book/site and check its links; `just book serve` shows it
book *args:
    bash .ci/book {{args}}

# Regenerate the golden fixtures (Python, see tools/reference/README.md)
golden:
    python3 tools/reference/make_fixtures.py

fmt:
    cargo fmt --all

# Compile the CUDA kernels that are embedded in the program, after a change of a .cu file (needs pip)
kernels:
    DJ_FLUX2_WRITE_KERNELS=1 bash .ci/cuda
