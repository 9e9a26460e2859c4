//! `inspect`.

use crate::cli::{Cli, fixture};
use crate::snapshot;

#[test]
fn a_folder_of_a_model() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["inspect", fixture("tiny/klein").to_str().unwrap()]), @r"
    exit code: 0
    ----- stdout -----
    [FIXTURES]/tiny/klein/transformer
      what        transformer, diffusers names
      container   safetensors
      tensors     918 kB: bf16 918 kB in 53
      sizes       2 double and 3 single blocks, width 64, 2 heads of 32, reads 96 text features
      parameters  0.46 million

    [FIXTURES]/tiny/klein/text_encoder
      what        text encoder, huggingface names
      container   safetensors, 2 files
      tensors     808 kB: bf16 808 kB in 310
      sizes       28 layers of which 27 are used, width 32, 4 heads over 2, 448 tokens, makes 96 features
      parameters  0.39 million

    [FIXTURES]/tiny/klein/vae
      what        VAE, diffusers names
      container   safetensors
      tensors     417 kB: bf16 417 kB in 250, I64 8 bytes in 1
      sizes       8 latent channels, encoder 8-16-24-24, decoder 8-16-24-24
      parameters  0.21 million

    model: of no published size, with its own tokenizer; complete
    ");
}

#[test]
fn a_single_file_and_a_file_that_is_none() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["inspect", fixture("tiny/klein-bfl/ae.safetensors").to_str().unwrap()]), @r"
    exit code: 0
    ----- stdout -----
    [FIXTURES]/tiny/klein-bfl/ae.safetensors
      what        VAE, bfl names
      container   safetensors
      tensors     834 kB: f32 834 kB in 250, I64 8 bytes in 1
      sizes       8 latent channels, encoder 8-16-24-24, decoder 8-16-24-24
      parameters  0.21 million
    ");
    // The server's answer, saved in place of the file.
    cli.write("model.safetensors", "{\n  \"error\": \"Access to model is restricted\"\n}\n");
    snapshot!(cli.run(["inspect", "model.safetensors"]), @r#"
    exit code: 1
    ----- stderr -----
    error: model.safetensors: not a file of tensors but text: { "error": "Access to model is restricted" }
    hint: pass a .safetensors or .gguf file; if this one was downloaded, the text is the server's answer in its place
    "#);
    // The index of a model is no file of tensors either; it stands for its folder.
    let [index, folder] = ["tiny/klein/model_index.json", "tiny/klein"].map(|name| fixture(name).display().to_string());
    assert_eq!(cli.run(["inspect", &index]), cli.run(["inspect", &folder]));
    snapshot!(cli.run(["inspect", "nowhere.safetensors"]), @r"
    exit code: 3
    ----- stderr -----
    error: no model at nowhere.safetensors
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file
    ");
}

#[test]
fn a_lora() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["inspect", fixture("tiny/lora.safetensors").to_str().unwrap()]), @r"
    exit code: 0
    ----- stdout -----
    [FIXTURES]/tiny/lora.safetensors
      what        LoRA
      container   safetensors
      tensors     75 kB: bf16 75 kB in 78
      sizes       those of no published model
      strength    alpha / rank 0.25 to 2.5, from its metadata
    ");
}

#[test]
fn a_folder_of_which_a_part_is_missing() {
    let cli = Cli::with_tiny_model();
    let model = cli.path("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(fixture("tiny/klein/model_index.json"), model.join("model_index.json")).unwrap();
    let shown = cli.run(["inspect", "--json", "model"]);
    let json = shown.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{shown}"));
    let found: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((&found["is_model"], &found["is_complete"]), (&true.into(), &false.into()));
    let problems = found["parts"].as_array().unwrap().iter().filter(|part| part["problem"].is_string()).count();
    assert_eq!(problems, 3, "{found}");
}

#[test]
fn a_picture_is_described_by_inspect_and_weights_by_info() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    for json in [&[][..], &["--json"]] {
        let of = |command: &str, file: &str| cli.stdout([&[command, file], json].concat());
        assert_eq!(of("inspect", "fox.png"), of("info", "fox.png"));
        let model = fixture("tiny/klein").display().to_string();
        let lora = fixture("tiny/lora.safetensors").display().to_string();
        for weights in [model, lora] {
            assert_eq!(of("info", &weights), of("inspect", &weights));
        }
    }
    // The bytes decide, not the name.
    cli.write("fox.safetensors", cli.read("fox.png"));
    assert_eq!(cli.stdout(["info", "fox.safetensors"]), cli.stdout(["info", "fox.png"]));
}
