use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/pth").join(name)
}

fn open(name: &str) -> Result<PthFile> {
    PthFile::open(&Location::from(golden(name)))
}

/// The values of a tensor of any dtype, in row-major order.
fn values(file: &PthFile, name: &str) -> (String, Vec<usize>, Vec<f64>) {
    let Strided { stored, strides } = &file.tensors[name];
    let size = stored.dtype.bytes_of(&[1]).unwrap() as usize;
    let bytes = gather(&file.bytes[stored.range.clone()], &stored.shape, strides, size);
    let dtype = stored.dtype.to_string();
    let values = bytes.chunks_exact(size).map(|b| match dtype.as_str() {
        "f32" => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        "f16" => half::f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        "bf16" => half::bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        "F64" => f64::from_le_bytes(b.try_into().unwrap()),
        "I64" => i64::from_le_bytes(b.try_into().unwrap()) as f64,
        other => panic!("{other}"),
    });
    (dtype.clone(), stored.shape.clone(), values.collect())
}

#[test]
fn tensors_are_those_that_torch_saved() {
    let expected: Value = serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap();
    for name in ["flat.pth", "params_ema.pth", "extra.pth"] {
        let file = open(name).unwrap();
        for (tensor, expected) in expected.as_object().unwrap() {
            let (dtype, shape, values) = values(&file, tensor);
            let torch = match dtype.as_str() {
                "f32" => "torch.float32",
                "f16" => "torch.float16",
                "bf16" => "torch.bfloat16",
                "F64" => "torch.float64",
                _ => "torch.int64",
            };
            assert_eq!(expected["dtype"], torch, "{name}: {tensor}");
            assert_eq!(expected["shape"], serde_json::json!(shape), "{name}: {tensor}");
            // JSON readers may be off in the last digit of an f64; all values were f32 once.
            let expected = expected["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
            assert_eq!(expected.collect::<Vec<_>>(), values.iter().map(|v| *v as f32).collect::<Vec<_>>(), "{tensor}");
        }
        assert_eq!(
            file.tensors.len(),
            expected.as_object().unwrap().len(),
            "{name}: values that are no tensors are left out"
        );
    }
}

#[test]
fn a_tensor_is_shared_or_gathered() {
    let file = open("flat.pth").unwrap();
    let (whole, view) = (file.tensor("a").unwrap(), file.tensor("view").unwrap());
    assert!(whole.bytes().is_mapped() && !view.bytes().is_mapped(), "a transposed view is copied");
    let transposed: Vec<f32> = (0..6).map(|i| whole.to_f32()[i % 2 * 3 + i / 2]).collect();
    assert_eq!((view.shape(), view.to_f32()), (&[3, 2][..], transposed));
    assert_eq!(file.tensor("scalar").unwrap().to_f32(), [2.5]);
    assert_eq!(file.tensor("slice").unwrap().to_f32(), [3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn a_parameter_is_its_tensor() {
    let file = open("parameter.pth").unwrap();
    assert_eq!(file.tensors.len(), 1);
    assert_eq!(file.tensors().next().unwrap().1.dtype.to_string(), "f32");
}

#[test]
fn what_could_run_code_is_refused_by_name() {
    let refused = |name: &str| match open(name).map(drop) {
        Err(error @ Error::Checkpoint { .. }) => (error.to_string(), error.remedy().unwrap().to_string()),
        other => panic!("{name}: {other:?}"),
    };
    let (message, hint) = refused("module.pth");
    assert!(message.contains("wants to load `torch.nn.modules") && message.contains("could run code"), "{message}");
    assert!(hint.contains("weights_only=True") && hint.contains("safetensors"), "{hint}");
    let (message, _) = refused("legacy.pth");
    assert!(message.contains("old format, that of PyTorch before version 1.6"), "{message}");
}

/// A pickle of these instructions, as a dictionary that holds nothing.
fn run(instructions: &[&[u8]]) -> Result<usize, PthProblem> {
    let pickle = [b"\x80\x02".as_slice(), &instructions.concat(), b"."].concat();
    Ok(pickle::read(&pickle)?.dictionary(&DICTIONARIES)?.count())
}

#[test]
fn only_a_dictionary_of_tensors_is_understood() {
    assert_eq!(run(&[b"}"]), Ok(0));
    assert_eq!(run(&[b"ccollections\nOrderedDict\n)R}b"]), Ok(0), "its state is dropped");
    assert_eq!(run(&[b"}(X\x01\x00\x00\x00aK\x01u"]), Ok(0), "a number is no tensor");
    assert_eq!(run(&[b"]"]).unwrap_err(), PthProblem::NoTensors);
    for (what, instructions) in [
        ("os.system", &b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"[..]),
        ("builtins eval", b"cbuiltins\neval\n"),
        ("by text", b"\x8c\x02os\x8c\x06system\x93"),
        ("a class", b"ccollections\nOrderedDict\n)\x81"),
        ("INST", b"(ios\nsystem\n"),
        ("OBJ", b"(ccollections\nOrderedDict\no"),
        ("a call of a call", b"ccollections\nOrderedDict\n)R)R"),
        ("BUILD of a list", b"]}b"),
    ] {
        let problem = run(&[instructions]).unwrap_err();
        assert!(matches!(problem, PthProblem::Forbidden { .. }), "{what}: {problem}");
    }
    for opcode in [b'P', b'S', b'V', b'I', b'F', b'L', b'g', b'p', 0x82, 0x83, 0x84, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x96]
    {
        assert_eq!(run(&[&[opcode]]).unwrap_err(), PthProblem::Opcode { opcode, at: 2 });
    }
}

#[test]
fn the_work_of_a_pickle_is_bounded() {
    let many = |instruction: &[u8], count| instruction.repeat(count);
    for instructions in [
        many(b"N0", 1 << 18),
        many(b"N", 1 << 17),
        many(b"(", 1 << 17),
        many(b"}0", 1 << 16),
        [b"N".as_slice(), &many(b"\x94", 1 << 17)].concat(),
        b"Nr\xff\xff\xff\x7f".to_vec(),
    ] {
        let problem = run(&[&instructions]).unwrap_err();
        assert!(matches!(problem, PthProblem::TooMany { .. }), "{problem}");
    }
    // Deep nesting recurses nowhere.
    let deep = [b"}X\x01\x00\x00\x00a".as_slice(), b"N", &many(b"\x85", 60_000), b"s"].concat();
    assert_eq!(run(&[&deep]), Ok(0));
}
