//! Invalid files: each is refused with an error that names the file and the offending values; none causes a panic.

use std::path::Path;

use flux2::ErrorKind;
use flux2::variant::Variant;
use flux2::weights::{
    Component, ConfigProblem, Error, FileProblem, ModelFiles, ModelPaths, Part, TextConfig, TransformerConfig,
    VaeConfig,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::layouts::{File, copy_of_tiny, edit_json, f32_bytes, join, single_files, tiny};

// ---- one file ----

/// The problem reported for a file of these bytes.
fn problem(bytes: &[u8]) -> FileProblem {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("hostile.safetensors");
    std::fs::write(&path, bytes).unwrap();
    match Component::<TransformerConfig>::open(&path) {
        Err(error @ Error::Checkpoint { .. }) => {
            assert!(error.to_string().contains("hostile.safetensors") && error.remedy().is_some());
            let Error::Checkpoint { problem, .. } = error else { unreachable!("matched above") };
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// The problem reported for a file with this header and this many bytes of data.
fn header_problem(header: &str, data: usize) -> FileProblem {
    problem(&join(header, &vec![0; data]))
}

#[test]
fn empty_file() {
    assert_eq!(problem(b""), FileProblem::TooShort { bytes: 0 });
}

#[test]
fn file_of_seven_bytes() {
    assert_eq!(problem(&[0; 7]), FileProblem::TooShort { bytes: 7 });
}

#[cfg(unix)]
#[test]
fn a_device_is_not_read() {
    let error = Component::<VaeConfig>::open(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { problem: FileProblem::NotAFile, .. }), "{error}");
}

#[test]
fn a_shard_that_is_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("model.safetensors")).unwrap();
    let error = Component::<VaeConfig>::open(temp.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { problem: FileProblem::NotAFile, .. }), "{error}");
}

#[test]
fn header_longer_than_file() {
    let bytes = [&100u64.to_le_bytes()[..], b"{}"].concat();
    assert_eq!(problem(&bytes), FileProblem::HeaderBeyondFile { header: 100, file: 10 });
}

#[test]
fn header_of_a_gigabyte() {
    let bytes = [&(1u64 << 30).to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(problem(&bytes), FileProblem::HeaderTooLong { header: 0x4000_0000, .. }));
}

#[test]
fn header_length_that_overflows_when_eight_is_added() {
    let bytes = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(problem(&bytes), FileProblem::HeaderTooLong { header: u64::MAX, .. }));
}

#[test]
fn header_without_json() {
    assert!(matches!(problem(&join("", b"")), FileProblem::Json { .. }));
    assert!(matches!(header_problem("not json", 0), FileProblem::Json { .. }));
    assert!(matches!(header_problem("{\"a\"", 0), FileProblem::Json { .. }));
    assert!(matches!(header_problem("{\"a\":", 0), FileProblem::Entry { .. }));
    assert!(matches!(header_problem("{} {}", 0), FileProblem::Json { .. }));
}

#[test]
fn header_that_is_an_array() {
    assert!(matches!(header_problem("[]", 0), FileProblem::Json { .. }));
}

#[test]
fn header_that_is_not_utf8() {
    let bytes = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    assert!(matches!(problem(&bytes), FileProblem::Json { .. }));
}

#[test]
fn header_nested_a_hundred_thousand_deep() {
    let deep = "[".repeat(100_000);
    assert!(matches!(header_problem(&format!("{{\"a\":{deep}"), 0), FileProblem::Entry { .. }));
    let unknown = format!(r#"{{"a":{{"x":{deep}"#);
    assert!(matches!(header_problem(&unknown, 0), FileProblem::Entry { .. }));
    assert!(matches!(header_problem(&format!(r#"{{"__metadata__":{deep}"#), 0), FileProblem::Json { .. }));
}

/// A header with one tensor.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn a_tensor_without_a_shape() {
    let found = header_problem(r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#, 4);
    assert!(matches!(&found, FileProblem::Entry { name, message } if name == "a" && message.contains("shape")));
}

#[test]
fn an_axis_that_is_negative_or_no_number() {
    for shape in ["[-1]", "[1.5]", "[\"1\"]", "[18446744073709551616]", "null", "{}"] {
        assert!(matches!(header_problem(&one("F32", shape, "[0,4]"), 4), FileProblem::Entry { .. }), "{shape}");
    }
}

#[test]
fn offsets_that_are_negative_or_too_many() {
    for offsets in ["[-4,0]", "[0]", "[0,4,8]", "[0,1e30]"] {
        assert!(matches!(header_problem(&one("F32", "[1]", offsets), 4), FileProblem::Entry { .. }), "{offsets}");
    }
}

#[test]
fn a_shape_of_a_thousand_axes() {
    let shape = format!("[{}1]", "1,".repeat(999));
    assert!(matches!(header_problem(&one("F32", &shape, "[0,4]"), 4), FileProblem::Entry { .. }));
}

#[test]
fn a_shape_whose_product_overflows() {
    let shape = "[4294967296,4294967296]";
    let expected = FileProblem::SizeOverflow { name: "a".into(), shape: vec![1 << 32; 2], dtype: "f32".into() };
    assert_eq!(header_problem(&one("F32", shape, "[0,4]"), 4), expected);
}

#[test]
fn a_shape_that_needs_other_bytes_than_it_is_given() {
    let found = header_problem(&one("BF16", "[3]", "[0,4]"), 4);
    assert!(matches!(found, FileProblem::ByteCount { expected: 6, found: 4, .. }), "{found}");
}

#[test]
fn a_dtype_nobody_knows() {
    let expected = FileProblem::UnknownDType { name: "a".into(), dtype: "F33".into() };
    assert_eq!(header_problem(&one("F33", "[1]", "[0,4]"), 4), expected);
}

#[test]
fn a_tensor_beyond_the_end_of_the_file() {
    let expected = FileProblem::BeyondFile { name: "a".into(), end: 8, available: 7 };
    assert_eq!(header_problem(&one("F32", "[2]", "[0,8]"), 7), expected);
}

#[test]
fn bytes_after_the_last_tensor() {
    assert_eq!(header_problem(&one("F32", "[1]", "[0,4]"), 5), FileProblem::Trailing { bytes: 1 });
}

/// A header with two tensors.
fn two(a: [u64; 2], b: [u64; 2]) -> String {
    let entry =
        |[from, to]: [u64; 2]| json!({"dtype": "U8", "shape": [to.saturating_sub(from)], "data_offsets": [from, to]});
    json!({"a": entry(a), "b": entry(b)}).to_string()
}

#[test]
fn tensors_that_overlap() {
    let found = header_problem(&two([0, 4], [2, 6]), 6);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 2, to: 6, expected: 4 });
}

#[test]
fn a_gap_between_tensors() {
    let found = header_problem(&two([0, 4], [5, 6]), 6);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 5, to: 6, expected: 4 });
}

#[test]
fn offsets_that_run_backwards() {
    let found = header_problem(&two([0, 4], [4, 2]), 4);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 4, to: 2, expected: 4 });
}

#[test]
fn a_name_given_twice() {
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    assert_eq!(header_problem(&format!("{{{entry},{entry}}}"), 4), FileProblem::Duplicate { name: "a".into() });
}

#[test]
fn the_answer_of_a_server_is_shown() {
    for (text, shown) in [
        ("{\"error\":\"Invalid username\"}", "text: {\"error\":\"Invalid username\"}"),
        ("\n\n  <HTML>\r\n<b>Not Found", "text: <HTML> <b>Not Found"),
        ("Entry not found", "text: Entry not found"),
        ("Zugriff verweigert f\u{fc}r alle, die nicht angemeldet sind", "text: Zugriff verweigert f\u{fc}r alle"),
    ] {
        let found = problem(text.as_bytes());
        assert!(matches!(found, FileProblem::Text { .. }) && found.to_string().contains(shown), "{found}");
    }
    // Control characters cannot drive the terminal, and long texts are cut.
    let found = problem("a\u{202e}b ".repeat(1000).as_bytes()).to_string();
    assert!(found.len() < 1200 && found.contains("\\u{202e}") && !found.contains('\u{202e}'), "{found}");
    assert!(!matches!(problem(b"abc\x1b[2Jdefgh"), FileProblem::Text { .. }));
}

#[test]
fn other_formats_are_recognized() {
    for (start, expected) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00"[..], "git LFS"),
        (b"PK\x03\x04\0\0\0\0", "PyTorch"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "a PNG picture"),
    ] {
        let found = problem(start);
        assert!(matches!(found, FileProblem::OtherFormat { looks_like } if looks_like.contains(expected)), "{found}");
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let name = "\u{1b}]0;owned\u{7}\n".to_owned() + &"x".repeat(100_000);
    let header = json!({name: {"dtype": "\u{1b}[2J", "shape": [1], "data_offsets": [0, 4]}}).to_string();
    let message = header_problem(&header, 4).to_string();
    assert!(!message.contains(char::is_control) && message.len() < 500, "{message}");
}

fn small_header() -> Vec<u8> {
    let entry = |name: &str, shape: &[usize], from: usize| {
        let bytes = 2 * shape.iter().product::<usize>();
        format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{from},{}]}}"#, from + bytes)
    };
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
        entry("img_in.weight", &[4, 2], 0),
        entry("double_stream_modulation_img.lin.weight", &[3], 16)
    );
    join(&header, &[0; 22])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// A file that this loader accepts is also accepted by the `safetensors` crate.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0..1usize << 16, any::<u8>()), 1..4)) {
        let mut bytes = small_header();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let error = Component::<TransformerConfig>::open(&path).unwrap_err();
        if !matches!(error, Error::Checkpoint { .. }) {
            prop_assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), "{error}");
        }
    }
}

#[test]
fn the_small_header_is_whole() {
    assert!(safetensors::SafeTensors::deserialize(&small_header()).is_ok());
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("f.safetensors");
    std::fs::write(&path, small_header()).unwrap();
    let error = Component::<TransformerConfig>::open(&path).unwrap_err();
    assert!(matches!(error, Error::Tensors { .. }), "{error}");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = std::fs::read(tiny("klein-bfl/ae.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for len in [9, header - 1, header, header + 1, whole.len() - 1] {
        problem(&whole[..len]);
    }
}

// ---- tensors ----

/// The error for the tiny transformer in BFL's layout after `change`.
fn changed(change: impl FnOnce(&mut File)) -> Error {
    let temp = tempfile::tempdir().unwrap();
    let mut file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    file = file.renamed(|n| n.trim_start_matches("model.diffusion_model.").to_owned());
    change(&mut file);
    Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap_err()
}

#[test]
fn every_missing_and_every_unused_tensor_is_listed() {
    let error = changed(|file| {
        let proj = file.0.remove("double_blocks.1.img_attn.proj.weight").unwrap();
        file.0.insert("double_blocks.1.img_attn.porj.weight".into(), proj.clone());
        file.0.remove("final_layer.linear.weight");
        for i in 0..600 {
            file.0.insert(format!("something.else.{i:03}"), proj.clone());
        }
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["double_blocks.1.img_attn.proj.weight", "final_layer.linear.weight"]);
    assert_eq!(mismatch.unused.len(), 601);
    let message = error.to_string();
    assert!(message.contains("`double_blocks.1.img_attn.proj.weight` (nearest: double_blocks.1.img_attn.porj.weight)"));
    assert!(message.contains("something.else.498") && !message.contains("something.else.499"), "{message}");
    assert!(message.contains("601 not used") && message.contains("and 101 more"), "{message}");
}

#[test]
fn the_tensor_that_tells_the_layout_may_be_the_missing_one() {
    let error = changed(|file| {
        let tensor = file.0.remove("double_stream_modulation_img.lin.weight").unwrap();
        file.0.insert("double_stream_modulation_imgs.lin.weight".into(), tensor);
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["double_stream_modulation_img.lin.weight"]);
    assert!(error.to_string().contains("(nearest: double_stream_modulation_imgs.lin.weight)"), "{error}");
}

#[test]
fn tensors_of_the_wrong_shape_are_listed() {
    let error = changed(|file| {
        file.0.insert("single_blocks.1.norm.key_norm.scale".into(), ("BF16".into(), vec![31], vec![0; 62]));
        file.0.insert("single_blocks.2.linear2.weight".into(), ("BF16".into(), vec![256, 64], vec![0; 32768]));
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    let shapes: Vec<_> = mismatch.shapes.iter().map(|s| (s.found.clone(), s.expected.clone())).collect();
    assert_eq!(shapes, [(vec![31], vec![32]), (vec![256, 64], vec![64, 256])]);
}

#[test]
fn integer_weights_are_refused() {
    let error = changed(|file| {
        file.0.insert("single_blocks.0.linear2.weight".into(), ("U8".into(), vec![64, 256], vec![0; 64 * 256]));
    });
    assert!(error.to_string().contains("`single_blocks.0.linear2.weight` is U8"), "{error}");
}

#[test]
fn a_shape_with_a_zero_does_not_stand_for_a_size() {
    for (name, shape) in [
        ("img_in.weight", vec![1 << 40, 0]),
        ("txt_in.weight", vec![0, 96]),
        ("double_blocks.0.img_attn.norm.query_norm.scale", vec![0]),
        ("double_blocks.0.img_mlp.2.weight", vec![0, 1 << 40]),
    ] {
        let error = changed(|file| _ = file.0.insert(name.into(), ("BF16".into(), shape, vec![])));
        assert!(matches!(error, Error::Config { .. } | Error::Tensors { .. }), "{error}");
    }
}

#[test]
fn sizes_that_cannot_be_read_off_name_the_tensor() {
    let error = changed(|file| _ = file.0.remove("time_in.in_layer.weight"));
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["time_in.in_layer.weight"]);
    let error = changed(|file| _ = file.0.insert("txt_in.weight".into(), ("BF16".into(), vec![6], vec![0; 12])));
    assert!(matches!(error, Error::Config { problem: ConfigProblem::Shape { axes: 2, .. }, .. }), "{error}");
}

#[test]
fn an_fp8_scale_of_the_wrong_shape() {
    let error = changed(|file| {
        let name = "single_blocks.0.linear2.weight";
        file.0.insert(name.into(), ("F8_E4M3".into(), vec![64, 256], vec![0; 64 * 256]));
        file.0.insert(format!("{name}_scale"), ("F32".into(), vec![63], f32_bytes([1.0; 63])));
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!((mismatch.shapes[0].found.as_slice(), mismatch.shapes[0].expected.as_slice()), (&[63][..], &[64][..]));
    // A scale beside a matrix that needs none is not silently ignored.
    let error = changed(|file| {
        file.0.insert("single_blocks.0.linear2.weight_scale".into(), ("F32".into(), vec![], vec![0; 4]));
    });
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.unused.len() == 1), "{error}");
}

#[test]
fn a_model_with_a_guidance_embedding_is_not_klein() {
    let error = changed(|file| {
        file.0.insert("guidance_in.in_layer.weight".into(), ("BF16".into(), vec![64, 32], vec![0; 4096]));
    });
    assert!(matches!(&error, Error::WrongPart { found, .. } if found.contains("[dev]")), "{error}");
}

#[test]
fn a_lora_and_an_unknown_file_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let found = |name: &str| {
        let file = File([(name.to_owned(), ("F32".to_owned(), vec![1], vec![0; 4]))].into());
        match Component::<TransformerConfig>::open(file.write(temp.path(), "f.safetensors")) {
            Err(Error::WrongPart { found, .. }) => found,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found("transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight"), "a LoRA");
    assert_eq!(found("double_blocks.0.img_mod.lin.weight"), "FLUX.1");
    assert_eq!(found("weight"), "a file of unknown weights");
}

#[test]
fn swapped_files_are_called_what_they_are() {
    let check = |paths: ModelPaths, expected_found: &str, expected_wanted: Part| match ModelFiles::open(&paths) {
        Err(Error::WrongPart { found, wanted, .. }) => {
            assert_eq!((found.as_str(), wanted), (expected_found, expected_wanted));
        }
        other => panic!("{other:?}"),
    };
    let ModelPaths { model, text_encoder, vae, .. } = single_files();
    let (text, vae) = (text_encoder.unwrap(), vae.unwrap());
    check(ModelPaths { model: vae.clone(), ..ModelPaths::default() }, "the VAE", Part::Transformer);
    check(ModelPaths { vae: Some(text.clone()), ..single_files() }, "the text encoder", Part::Vae);
    check(ModelPaths { text_encoder: Some(model), ..single_files() }, "the transformer", Part::TextEncoder);
    let folder = ModelPaths { model: tiny("klein").into(), vae: Some(text), ..ModelPaths::default() };
    check(folder, "the text encoder", Part::Vae);
}

// ---- folders ----

/// The error for the tiny folder after `change`.
fn changed_folder(change: impl FnOnce(&Path)) -> Error {
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    change(&model);
    ModelFiles::open(&ModelPaths { model: model.into(), ..ModelPaths::default() }).unwrap_err()
}

#[test]
fn nothing_at_the_path() {
    let paths = ModelPaths { model: "/nowhere/at/all".into(), ..ModelPaths::default() };
    let error = ModelFiles::open(&paths).unwrap_err();
    assert!(matches!(error, Error::ModelMissing { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::ModelMissing);
    assert!(error.remedy().is_some());
}

#[test]
fn a_folder_without_model_index() {
    let error = changed_folder(|model| std::fs::remove_file(model.join("model_index.json")).unwrap());
    assert!(matches!(error, Error::NoModelIndex { .. }), "{error}");
}

#[test]
fn a_folder_without_one_of_the_parts() {
    for (part, what) in [("transformer", "transformer"), ("text_encoder", "text encoder"), ("vae", "VAE")] {
        let error = changed_folder(|model| std::fs::remove_dir_all(model.join(part)).unwrap());
        assert!(matches!(&error, Error::PartMissing { what: found, .. } if *found == what), "{error}");
        assert_eq!(error.kind(), ErrorKind::ModelMissing);
        let error = changed_folder(|model| {
            std::fs::remove_dir_all(model.join(part)).unwrap();
            std::fs::create_dir(model.join(part)).unwrap();
        });
        assert!(matches!(error, Error::NoWeights { .. }), "{error}");
    }
}

#[test]
fn a_single_file_needs_the_other_two_named() {
    let paths = ModelPaths { text_encoder: None, ..single_files() };
    let error = ModelFiles::open(&paths).unwrap_err();
    assert_eq!(error.remedy(), Some(flux2::Remedy::GivePart(flux2::Part::TextEncoder)));
    let paths = ModelPaths { vae: None, ..single_files() };
    assert_eq!(ModelFiles::open(&paths).unwrap_err().kind(), ErrorKind::ModelMissing);
}

/// The error for the tiny folder with another index of the text encoder's shards.
fn changed_index(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Error {
    changed_folder(|model| edit_json(&model.join("text_encoder/model.safetensors.index.json"), change))
}

#[test]
fn shards_outside_the_folder() {
    for shard in [
        "../vae/diffusion_pytorch_model.safetensors",
        "/etc/passwd.safetensors",
        "..\\x.safetensors",
        "c:x.safetensors",
        ".hidden.safetensors",
        "..",
        "",
        "config.json",
    ] {
        let error = changed_index(|index| {
            index["weight_map"]["model.embed_tokens.weight"] = shard.into();
        });
        let named =
            matches!(&error, Error::Config { problem: ConfigProblem::Value { key, .. }, .. } if key == "weight_map");
        assert!(named, "{shard}: {error}");
    }
}

#[test]
fn an_index_that_is_no_map_of_names() {
    for map in [json!(null), json!([]), json!("x"), json!({"a": 1}), json!({"a": {"b": "c"}})] {
        let error = changed_index(|index| _ = index.insert("weight_map".into(), map));
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    let error = changed_index(|index| _ = index.insert("weight_map".into(), json!({})));
    assert!(matches!(error, Error::NoWeights { .. }), "{error}");
}

#[test]
fn a_shard_that_is_not_there() {
    let error = changed_index(|index| index["weight_map"]["model.norm.weight"] = "model-9.safetensors".into());
    assert!(matches!(&error, Error::PartMissing { path, .. } if path.ends_with("model-9.safetensors")), "{error}");
}

#[test]
fn a_shard_without_a_tensor_its_index_promises() {
    let error = changed_index(|index| {
        index["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors".into();
    });
    assert!(matches!(&error, Error::ShardLacks { name, .. } if name == "model.embed_tokens.weight"), "{error}");
}

#[test]
fn a_tensor_in_two_shards() {
    let error = changed_folder(|model| {
        let folder = model.join("vae");
        let shard = |n: usize| folder.join(format!("diffusion_pytorch_model-0000{n}-of-00002.safetensors"));
        std::fs::rename(folder.join("diffusion_pytorch_model.safetensors"), shard(1)).unwrap();
        std::fs::copy(shard(1), shard(2)).unwrap();
    });
    assert!(matches!(error, Error::TensorTwice { .. }), "{error}");
}

#[test]
fn a_file_replaced_after_it_was_checked() {
    let temp = TempDir::new().unwrap();
    let path = File::read(&tiny("klein-bfl/ae.safetensors")).write(temp.path(), "ae.safetensors");
    let vae = Component::<VaeConfig>::open(&path).unwrap();
    assert!(vae.map().is_ok());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(vae.map(), Err(Error::FileChanged { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(vae.map(), Err(Error::Io { .. })));
}

#[test]
fn a_vae_without_its_encoder_is_called_that() {
    let temp = TempDir::new().unwrap();
    let mut file = File::read(&tiny("klein-bfl/ae.safetensors"));
    file.0.retain(|name, _| !name.starts_with("encoder."));
    let error = Component::<VaeConfig>::open(file.write(temp.path(), "ae.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Config { problem: ConfigProblem::DecoderOnly, .. }), "{error}");
}

// ---- configurations ----

/// The error for the tiny folder with `key` of `file` set to `value`.
fn configured(file: &str, key: &str, value: &Value) -> Error {
    changed_folder(|model| {
        edit_json(&model.join(file), |object| {
            object.insert(key.into(), value.clone());
        });
    })
}

#[test]
fn what_is_not_implemented_is_refused_by_key() {
    for (file, key, value) in [
        ("model_index.json", "_class_name", json!("Flux2Pipeline")),
        ("transformer/config.json", "guidance_embeds", json!(true)),
        ("transformer/config.json", "patch_size", json!(2)),
        ("transformer/config.json", "out_channels", json!(64)),
        ("text_encoder/config.json", "attention_bias", json!(true)),
        ("text_encoder/config.json", "hidden_act", json!("gelu")),
        ("text_encoder/config.json", "use_sliding_window", json!(true)),
        ("text_encoder/config.json", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("text_encoder/config.json", "layer_types", json!(["full_attention", "sliding_attention"])),
        ("vae/config.json", "act_fn", json!("relu")),
        ("vae/config.json", "use_quant_conv", json!(false)),
        ("vae/config.json", "use_post_quant_conv", json!(false)),
        ("vae/config.json", "mid_block_add_attention", json!(false)),
        ("vae/config.json", "patch_size", json!([1, 1])),
        ("vae/config.json", "in_channels", json!(4)),
        ("vae/config.json", "up_block_types", json!(["AttnUpDecoderBlock2D"])),
    ] {
        let error = configured(file, key, &value);
        let named = matches!(&error, Error::Config { path, problem: ConfigProblem::Unsupported { key: found, .. } }
            if found == key && path.ends_with(file));
        assert!(named, "{file} {key}: {error}");
    }
}

#[test]
fn absurd_values_are_refused_by_key() {
    for (file, key, value) in [
        ("transformer/config.json", "num_layers", json!(0)),
        ("transformer/config.json", "num_layers", json!(1_000_000_000)),
        ("transformer/config.json", "num_single_layers", json!(-3)),
        ("transformer/config.json", "attention_head_dim", json!("32")),
        ("transformer/config.json", "num_attention_heads", json!(1.5)),
        ("transformer/config.json", "mlp_ratio", json!(1e300)),
        ("transformer/config.json", "axes_dims_rope", json!([8, 8, 8])),
        ("transformer/config.json", "axes_dims_rope", json!([7, 9, 8, 8])),
        ("transformer/config.json", "axes_dims_rope", json!([8, 8, 8, 16])),
        ("transformer/config.json", "rope_theta", json!(0)),
        ("transformer/config.json", "eps", json!(-1e-6)),
        ("transformer/config.json", "_class_name", json!("AutoencoderKLFlux2")),
        ("text_encoder/config.json", "num_key_value_heads", json!(3)),
        ("text_encoder/config.json", "head_dim", json!(15)),
        ("text_encoder/config.json", "rms_norm_eps", json!(7)),
        ("text_encoder/config.json", "vocab_size", json!(u64::MAX)),
        ("text_encoder/config.json", "quantization_config", json!(7)),
        ("vae/config.json", "norm_num_groups", json!(5)),
        ("vae/config.json", "block_out_channels", json!([])),
        ("vae/config.json", "block_out_channels", json!(vec![8; 9])),
        ("vae/config.json", "decoder_block_out_channels", json!([8, 8])),
        ("vae/config.json", "layers_per_block", json!(1000)),
        ("vae/config.json", "batch_norm_eps", json!("small")),
        ("model_index.json", "is_distilled", json!("yes")),
        ("model_index.json", "text_encoder_out_layers", json!([9, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([9, 18, 29])),
        ("model_index.json", "text_encoder_out_layers", json!([])),
        ("model_index.json", "text_encoder_out_layers", json!(9)),
        ("model_index.json", "text_encoder_out_layers", json!("9, 18, 27")),
        ("model_index.json", "text_encoder_out_layers", json!([0, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([-9, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([9.0, 18.5])),
        ("model_index.json", "text_encoder_out_layers", json!([9, 18, u64::MAX])),
        ("model_index.json", "text_encoder_out_layers", json!([18, 9, 27])),
        ("model_index.json", "text_encoder_out_layers", json!((1..=17).collect::<Vec<_>>())),
        ("model_index.json", "max_sequence_length", json!(0)),
        ("model_index.json", "max_sequence_length", json!(-1)),
        ("model_index.json", "max_sequence_length", json!(48.5)),
        ("model_index.json", "max_sequence_length", json!("512")),
        ("model_index.json", "max_sequence_length", json!(u64::MAX)),
        ("model_index.json", "max_sequence_length", json!([512])),
    ] {
        let error = configured(file, key, &value);
        let named = matches!(&error, Error::Config { problem: ConfigProblem::Value { key: found, .. }, .. }
            if found == key);
        assert!(named, "{file} {key} {value}: {error}");
    }
}

#[test]
fn attention_and_mlp_are_not_too_wide_together() {
    // 16416 and 49248 side by side: either would fit.
    let error = configured("transformer/config.json", "num_attention_heads", &json!(513)).to_string();
    assert!(error.contains("`(mlp_ratio + 1) x hidden size` is 65664"), "{error}");
}

#[test]
fn wrong_taps_and_lengths_are_told_what_would_do() {
    let error = configured("model_index.json", "text_encoder_out_layers", &json!([18, 9])).to_string();
    let expected = "`text_encoder_out_layers` is [18,9], expected 1 to 16 ascending whole numbers from 1 to 256";
    assert!(error.ends_with(expected), "{error}");
    let error = configured("model_index.json", "max_sequence_length", &json!(1e9)).to_string();
    let expected = "`max_sequence_length` is 1000000000.0, expected a whole number from 1 to 32768";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn the_state_after_the_last_layer_is_not_tapped() {
    // In the reference, the last hidden state comes after the final norm.
    let error = configured("model_index.json", "text_encoder_out_layers", &json!([9, 18, 28]));
    assert!(error.to_string().contains("[9, 18, 28] of 28 layers"), "{error}");
}

#[test]
fn a_configuration_without_a_size() {
    let error = changed_folder(|model| {
        edit_json(&model.join("text_encoder/config.json"), |object| _ = object.remove("rope_theta"));
    });
    let missing =
        matches!(&error, Error::Config { problem: ConfigProblem::Missing { key }, .. } if key == "rope_theta");
    assert!(missing, "{error}");
}

#[test]
fn a_configuration_that_is_no_object() {
    for text in ["", "[]", "{", "\u{0}", &"[".repeat(100_000)] {
        let error = changed_folder(|model| std::fs::write(model.join("vae/config.json"), text).unwrap());
        assert!(matches!(error, Error::Config { problem: ConfigProblem::Json { .. }, .. }), "{error}");
    }
}

#[test]
fn a_configuration_of_a_gigabyte_is_not_read() {
    let error = changed_folder(|model| {
        let file = std::fs::File::create(model.join("vae/config.json")).unwrap();
        file.set_len(1 << 30).unwrap(); // sparse
    });
    assert!(matches!(error, Error::Config { problem: ConfigProblem::NotReadable { .. }, .. }), "{error}");
}

#[test]
fn a_configuration_its_tensors_contradict() {
    let error = configured("transformer/config.json", "num_layers", &json!(3));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.missing.len() == 16), "{error}");
    let error = configured("transformer/config.json", "num_layers", &json!(1));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.unused.len() == 16), "{error}");
    let error = configured("text_encoder/config.json", "intermediate_size", &json!(81));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.shapes.len() == 27 * 3), "{error}");
}

#[test]
fn parts_of_different_models() {
    let disagree = |paths: ModelPaths| match ModelFiles::open(&paths) {
        Err(Error::PartsDisagree { part, reads, makes }) => (part, reads, makes),
        other => panic!("{other:?}"),
    };
    let other_text = ModelPaths { text_encoder: Some(tiny("text_encoder_fp8").into()), ..single_files() };
    assert_eq!(disagree(other_text), (Part::TextEncoder, 96, 48));
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    edit_json(&model.join("model_index.json"), |index| {
        index.insert("text_encoder_out_layers".into(), json!([9, 18]));
    });
    assert_eq!(disagree(ModelPaths { model: model.into(), ..ModelPaths::default() }), (Part::TextEncoder, 96, 64));
}

#[test]
fn a_variant_of_another_size_is_refused() {
    let paths = ModelPaths { variant: Some(Variant::by_name("klein-9b").unwrap()), ..single_files() };
    assert!(matches!(ModelFiles::open(&paths), Err(Error::VariantSize { .. })));
    let paths = ModelPaths { variant: Some(Variant::by_name("klein-base").unwrap()), ..single_files() };
    let files = ModelFiles::open(&paths).unwrap();
    assert_eq!((files.variant.name, files.name.as_str()), ("klein-base (custom size)", "transformer"));
}

#[test]
fn no_value_of_any_key_panics() {
    let hostile = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(3),
        json!(1e308),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([0]),
        json!([65536, 65536, 65536, 65536]),
        json!({}),
        json!({"rope_theta": [], "quant_method": "gptq"}),
        json!([[[]]]),
    ];
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    for part in ["transformer", "text_encoder", "vae"] {
        let path = model.join(part).join("config.json");
        let original = std::fs::read(&path).unwrap();
        let keys: serde_json::Map<String, Value> = serde_json::from_slice(&original).unwrap();
        for key in keys.keys().map(String::as_str).chain(["rope_parameters", "quantization_config"]) {
            for value in &hostile {
                edit_json(&path, |object| _ = object.insert(key.into(), value.clone()));
                let folder = model.join(part);
                // Any content must be accepted or refused, without a panic.
                let _ = match part {
                    "transformer" => Component::<TransformerConfig>::open(&folder).err(),
                    "text_encoder" => Component::<TextConfig>::open(&folder).err(),
                    _ => Component::<VaeConfig>::open(&folder).err(),
                };
                std::fs::write(&path, &original).unwrap();
            }
        }
    }
}
