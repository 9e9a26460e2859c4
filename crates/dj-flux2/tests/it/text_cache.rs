//! Text embeddings on disk, with a text encoder that is large enough to be worth it: the tiny model's with wide MLPs of
//! zeros, in a file that takes no room on the disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Map, Value, json};

use crate::cli::{Cli, QUICK, fixture, shown};

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 40_960;

/// The tiny model with such an encoder, in `folder`.
fn write_model(folder: &Path) {
    for part in ["transformer", "vae", "tokenizer", "text_encoder"] {
        fs::create_dir_all(folder.join(part)).unwrap();
        for entry in fs::read_dir(fixture("tiny/klein").join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if part != "text_encoder" {
                fs::copy(&path, folder.join(part).join(name)).unwrap();
            }
        }
    }
    let tiny = |name: &str| fs::read_to_string(fixture("tiny/klein").join(name)).unwrap();
    let index = tiny("model_index.json").replacen('{', r#"{"max_sequence_length": 32,"#, 1);
    fs::write(folder.join("model_index.json"), index).unwrap();
    let wide = format!(r#""intermediate_size": {INTERMEDIATE}"#);
    let config = tiny("text_encoder/config.json").replace(r#""intermediate_size": 80"#, &wide);
    fs::write(folder.join("text_encoder/config.json"), config).unwrap();

    let mut header = Map::new();
    let mut end = 0;
    let mut add = |name: String, dtype: &str, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 1 };
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    };
    for i in 0..27 {
        for (name, shape) in [
            ("self_attn.q_proj", [64, HIDDEN]),
            ("self_attn.k_proj", [32, HIDDEN]),
            ("self_attn.v_proj", [32, HIDDEN]),
            ("self_attn.o_proj", [HIDDEN, 64]),
            ("mlp.gate_proj", [INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", [INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", [HIDDEN, INTERMEDIATE]),
        ] {
            add(format!("model.layers.{i}.{name}.weight"), "F8_E4M3", &shape);
        }
        for (name, n) in [
            ("input_layernorm", HIDDEN),
            ("post_attention_layernorm", HIDDEN),
            ("self_attn.q_norm", 16),
            ("self_attn.k_norm", 16),
        ] {
            add(format!("model.layers.{i}.{name}.weight"), "F32", &[n]);
        }
    }
    add("model.embed_tokens.weight".into(), "F32", &[448, HIDDEN]);
    let zeros = end - 4 * 448 * HIDDEN;
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.join("text_encoder/model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + zeros) as u64).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    let embedding: Vec<u8> = (0..448 * HIDDEN).flat_map(|i| ((i % 97) as f32 / 50.0 - 1.0).to_le_bytes()).collect();
    file.write_all(&embedding).unwrap();
}

/// A picture with that model; the caches of the user are in `home` below the folder of the run.
fn fox(cli: &Cli, output: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = cli.command(["a red fox", "-m", "model", "-v", "-o", output].iter().chain(&QUICK).chain(args));
    command.env("HOME", cli.path("home")).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    output
}

fn said(output: &Output, what: &str) -> bool {
    String::from_utf8_lossy(&output.stderr).lines().any(|line| line.starts_with(what))
}

#[test]
fn the_second_run_finds_what_the_first_one_kept() {
    let cli = Cli::without_model();
    write_model(&cli.path("model"));
    let texts = cli.path(if cfg!(target_os = "macos") { "home/Library/Caches" } else { "home/.cache" });
    let entries = |folder: &Path| fs::read_dir(folder).map_or(0, |entries| entries.count());

    // A flag or the environment turns the cache off.
    let without = fox(&cli, "without.png", &["--no-text-cache"], &[]);
    assert!(said(&without, "load text encoder") && !said(&without, "text embedding"));
    fox(&cli, "off.png", &[], &[("DJ_FLUX2_TEXT_CACHE", "off")]);
    assert!(!cli.path("home").exists());

    let texts = texts.join("dj-flux2/text");
    let first = fox(&cli, "first.png", &[], &[]);
    assert!(said(&first, "load text encoder") && !said(&first, "text embedding"));
    assert_eq!(entries(&texts), 1);
    let second = fox(&cli, "second.png", &[], &[]);
    assert!(said(&second, "text embedding found: ") && !said(&second, "load text encoder"), "{}", shown(&second));
    for name in ["off.png", "first.png", "second.png"] {
        assert!(cli.read(name) == cli.read("without.png"), "{name}");
    }

    // The flag also keeps the cache from being read.
    let without = fox(&cli, "without.png", &["--no-text-cache"], &[]);
    assert!(said(&without, "load text encoder"));

    // Another folder is empty at first.
    let elsewhere = fox(&cli, "elsewhere.png", &[], &[("DJ_FLUX2_TEXT_CACHE", "texts")]);
    assert!(said(&elsewhere, "load text encoder"));
    assert_eq!((entries(&cli.path("texts")), entries(&texts)), (1, 1));

    // An embedding that cannot be written is mentioned with -v, and the run goes on.
    let refused = fox(&cli, "refused.png", &[], &[("DJ_FLUX2_TEXT_CACHE", "first.png")]);
    assert!(said(&refused, "text embedding not kept: first.png"), "{}", shown(&refused));
    assert!(cli.read("refused.png") == cli.read("first.png"));
}

#[test]
fn small_models_keep_nothing() {
    let cli = Cli::with_tiny_model();
    let mut command = cli.command(["a red fox"].iter().chain(&QUICK));
    assert!(command.env("HOME", cli.path("home")).output().unwrap().status.success());
    assert_eq!(cli.files(), ["output.png"]);
}
