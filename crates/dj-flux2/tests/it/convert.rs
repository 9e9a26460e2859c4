//! `convert`, and what it makes drawn with; weights rounded on loading.

use insta::assert_snapshot as snapshot;

use crate::cli::{Cli, fixture};

#[test]
fn a_converted_model_draws_what_rounding_on_loading_draws() {
    let cli = Cli::with_tiny_model();
    let tiny = fixture("tiny/klein").display().to_string();
    let rounded = cli.fox("rounded.png", &["--quantize", "q8_0", "--no-metadata"]);
    assert_eq!(cli.stdout(["convert", &tiny, "small", "--to", "q8_0"]), "small\n");
    assert!(cli.fox("small.png", &["-m", "small", "--no-metadata"]) == rounded);

    // With only the transformer quantized, the picture differs from both others.
    cli.stdout(["convert", &tiny, "t.gguf", "--to", "q8_0", "--component", "transformer"]);
    let mixed = cli.fox("mixed.png", &["--transformer", "t.gguf", "--no-metadata"]);
    assert!(mixed != rounded && mixed != cli.fox("plain.png", &["--no-metadata"]));

    // int8 weights from a file.
    cli.stdout(["convert", &tiny, "bytes", "--to", "int8", "-q"]);
    let bytes = cli.fox("bytes.png", &["-m", "bytes", "--dtype", "int8", "--no-metadata"]);
    assert!(bytes == cli.fox("int8.png", &["--quantize", "int8", "--no-metadata"]));
}

#[test]
fn a_picture_remembers_what_its_weights_were_rounded_to() {
    let cli = Cli::with_tiny_model();
    let first = cli.fox("fox.png", &["--quantize", "q8_0", "--dtype", "f32"]);
    assert!(cli.stdout(["info", "fox.png"]).contains("f32+q8_0"));
    cli.stdout(["--from", "fox.png", "-o", "again.png"]);
    assert!(cli.read("again.png") == first);
}

#[cfg(feature = "mini")]
#[test]
fn rows_that_are_not_whole_blocks_are_told_of() {
    let cli = Cli::without_model();
    let said = |args: &[&str]| String::from_utf8(cli.output(args).stderr).unwrap();
    let converted = said(&["convert", "klein-mini", "out.gguf", "--to", "q4_k", "--component", "transformer"]);
    let warning = "warning: 26 of 26 matrices are left as they were: their rows are not whole blocks of 256 values\n";
    assert!(converted.contains(warning), "{converted}");
    let drawn = said(&["a cat", "--quantize", "q4_k", "-W", "64", "-H", "64", "-s", "1", "-S", "1"]);
    let warning = "warning: 26 of 26 matrices of the transformer stay as they are stored: their rows are not whole \
                   blocks of q4_k, 256 values\n";
    assert!(drawn.contains(warning), "{drawn}");
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let cli = Cli::with_tiny_model();
    let tiny = fixture("tiny/klein").display().to_string();
    cli.write("there", "precious");
    snapshot!(cli.run(["convert", &tiny, "there", "--to", "q8_0"]), @"
    exit code: 2
    ----- stderr -----
    error: there is there already
    hint: name another place, or add --force to replace it
    ");
    snapshot!(cli.run(["convert", "nowhere/at-all/x", "out", "--to", "q8_0"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at nowhere/at-all/x
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file
    ");
    snapshot!(cli.run(["convert", &tiny, "vae.gguf", "--to", "q8_0", "--component", "vae"]), @"
    exit code: 2
    ----- stderr -----
    error: the VAE has no matrices to round to q8_0
    hint: use --to bf16, or leave it as it is: it is a small part of a model
    ");
    snapshot!(cli.run(["convert", &tiny, "out", "--to", "q5_k"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value 'q5_k' for '--to <FORMAT>' [possible values: bf16, int8, q8_0, q4_k]
    hint: a similar value exists: 'q4_k'
    ");
    snapshot!(cli.run(["convert", &tiny, "out"]), @"
    exit code: 2
    ----- stderr -----
    error: the following required arguments were not provided: --to <FORMAT>
    hint: run it with --help to see what it takes
    ");
    assert_eq!(cli.read("there"), b"precious");
    assert_eq!(cli.files(), ["there"]);
}

#[test]
fn formats_that_contradict_each_other_are_refused() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "--dtype", "int8", "--quantize", "q8_0"]), @"
    exit code: 2
    ----- stderr -----
    error: --dtype int8 quantizes the weights to int8, and --quantize to something else
    hint: leave one of the two out
    ");
    snapshot!(cli.run(["a red fox", "--dtype", "f32", "--quantize", "int8"]), @"
    exit code: 2
    ----- stderr -----
    error: --quantize int8 also rounds activations to int8, and --dtype f32 rounds nothing
    hint: leave --dtype out, or use --quantize q8_0
    ");
    let transformer = fixture("tiny/klein-bfl/transformer.safetensors").display().to_string();
    let output = cli.output(["a red fox", "-m", &transformer, "--transformer", &transformer]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_whole_model_does_not_become_a_folder_that_looks_like_a_file() {
    let cli = Cli::with_tiny_model();
    let model = fixture("tiny/klein").display().to_string();
    snapshot!(cli.run(["convert", &model, "out.gguf", "--to", "q8_0"]), @"
    exit code: 2
    ----- stderr -----
    error: out.gguf is the name of a file, and a whole model becomes a folder
    hint: name a folder, or convert one network to that file, as in --component transformer
    ");
    assert_eq!(cli.files(), [""; 0]);
    cli.stdout(["convert", &model, "out.gguf", "--to", "q8_0", "--component", "transformer"]);
    assert!(cli.path("out.gguf").is_file());
}
