//! Which model is run, and what is said about one that cannot be.

use std::fs;

use crate::cli::{Cli, QUICK, fixture};
use crate::snapshot;

/// What is said without `DJ_FLUX2_MODEL`; nothing may be made.
fn refused(args: &[&str]) -> String {
    let cli = Cli::without_model();
    let shown = cli.run(["a red fox"].iter().chain(args));
    assert_eq!(cli.files(), [""; 0], "{shown}");
    shown
}

#[test]
fn no_model_named() {
    // A part needs a model that is named. Without the built-in model, every run does.
    let said = refused(&["--vae", "nowhere"]);
    snapshot!(said, @"
    exit code: 3
    ----- stderr -----
    error: no model is named
    hint: pass -m PATH with the folder of a FLUX.2 [klein] model, or set DJ_FLUX2_MODEL to it
    ");
    assert_eq!(refused(&["--variant", "klein-4b"]), said);
    if cfg!(not(feature = "mini")) {
        assert_eq!(refused(&[]), said);
    }
}

#[cfg(not(feature = "mini"))]
#[test]
fn klein_mini_where_it_is_not_built_in() {
    snapshot!(refused(&["-m", "klein-mini"]), @"
    exit code: 3
    ----- stderr -----
    error: no file or folder is called klein-mini, and this program was built without it
    hint: build it with the feature `mini`, or pass -m PATH with the folder of a model
    ");
}

#[test]
fn no_model_there() {
    snapshot!(refused(&["-m", "./models/klein"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at ./models/klein
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file
    ");
}

#[cfg(feature = "hub")]
#[test]
fn what_may_be_a_path_or_a_repository() {
    snapshot!(refused(&["-m", "models/klein"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at models/klein
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file; to download a Hugging Face repository, run `dj-flux2 download models/klein`
    ");
}

#[cfg(feature = "hub")]
#[test]
fn the_name_of_a_published_model() {
    snapshot!(refused(&["-m", "klein-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-4b is not on this disk
    hint: download it (16.0 GB) with `dj-flux2 download klein-4b`, or pass its folder with -m PATH
    ");
    snapshot!(refused(&["-m", "KLEIN-9b-kv"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-9b-kv is not on this disk
    hint: download it (34.7 GB) with `dj-flux2 download klein-9b-kv`, or pass its folder with -m PATH
    ");
}

#[test]
fn a_misspelt_name_of_a_model() {
    snapshot!(refused(&["-m", "klien-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at klien-4b
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file; the nearest name of a model is klein-4b
    ");
}

#[test]
fn a_folder_that_is_no_model() {
    snapshot!(refused(&["-m", "."]), @"
    exit code: 3
    ----- stderr -----
    error: . is a folder without model_index.json
    hint: pass the folder that holds model_index.json, or one .safetensors or .gguf file
    ");
}

#[test]
fn a_transformer_alone_needs_text_encoder_and_vae() {
    let transformer = fixture("tiny/klein-bfl/transformer.safetensors");
    let text_encoder = fixture("tiny/klein-bfl/text_encoder.safetensors");
    let [transformer, text_encoder] = [&transformer, &text_encoder].map(|p| p.to_str().unwrap());
    snapshot!(refused(&["-m", transformer]), @"
    exit code: 3
    ----- stderr -----
    error: [FIXTURES]/tiny/klein-bfl/transformer.safetensors holds no text encoder, and none is named
    hint: add --text-encoder with the path of the text encoder
    ");
    snapshot!(refused(&["-m", transformer, "--text-encoder", text_encoder]), @"
    exit code: 3
    ----- stderr -----
    error: [FIXTURES]/tiny/klein-bfl/transformer.safetensors holds no VAE, and none is named
    hint: add --vae with the path of the VAE
    ");
    snapshot!(refused(&["-m", transformer, "--text-encoder", "nowhere", "--vae", "nowhere"]), @"
    exit code: 3
    ----- stderr -----
    error: no text encoder at nowhere
    hint: download the model again, or correct the path
    ");
}

#[test]
fn single_files_give_the_bytes_of_the_folder() {
    let cli = Cli::without_model();
    // The tiny autoencoder and vocabulary have unusual sizes, so their files need the configurations beside them.
    for (folder, file, beside) in [("te", "text_encoder", "tokenizer/tokenizer.json"), ("vae", "ae", "vae/config.json")]
    {
        fs::create_dir(cli.path(folder)).unwrap();
        let beside = fixture("tiny/klein").join(beside);
        fs::copy(&beside, cli.path(folder).join(beside.file_name().unwrap())).unwrap();
        let file = format!("{file}.safetensors");
        fs::copy(fixture("tiny/klein-bfl").join(&file), cli.path(folder).join(&file)).unwrap();
    }
    let (folder, transformer) = (fixture("tiny/klein"), fixture("tiny/klein-bfl/transformer.safetensors"));
    // The model's name is stored in the picture, and here it is that of a file: leave the parameters out.
    let fox = cli.fox("folder.png", &["--no-metadata", "-m", folder.to_str().unwrap()]);
    let parts = ["--text-encoder", "te/text_encoder.safetensors", "--vae", "vae/ae.safetensors"];
    let args = [&["--no-metadata", "-m", transformer.to_str().unwrap()], &parts[..]].concat();
    assert_eq!(cli.fox("files.png", &args), fox);
}

#[test]
fn another_member_of_the_family_by_name() {
    let cli = Cli::with_tiny_model();
    let args = ["a red fox", "--variant", "klein-base", "-g", "2", "--json"];
    let record: serde_json::Value = serde_json::from_str(&cli.stdout(args.iter().chain(&QUICK))).unwrap();
    assert_eq!(record["guidance"], 2.0);
    snapshot!(cli.run(["a red fox", "--variant", "klein-9b"]), @"
    exit code: 2
    ----- stderr -----
    error: the transformer has width 64, 2 + 3 blocks, text width 96; klein-9b has width 4096, 8 + 24 blocks, text width 12288
    hint: leave --variant out, or name the one the file is
    ");
}

#[test]
fn no_such_device() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "--device", "cuda"]), @"
    exit code: 1
    ----- stderr -----
    error: no device `cuda`: [REASON]
    ");
    // Fails on a machine with GPUs too.
    snapshot!(cli.run(["a red fox", "--device", "cuda:4095"]), @"
    exit code: 1
    ----- stderr -----
    error: no device `cuda:4095`: [REASON]
    ");
    assert_eq!(cli.fox("cpu.png", &["--device", "cpu"]), cli.fox("auto.png", &["--device", "auto"]));
}
