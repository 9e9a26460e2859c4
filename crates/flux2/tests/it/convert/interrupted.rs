//! Conversions that are interrupted, in each other's way, or have a folder to replace.

use super::*;

#[test]
fn two_conversions_to_one_place_exclude_each_other() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let second = conversion(tiny("klein"), Format::Bf16, &out);
    let mut refused = 0;
    let mut meanwhile = |event: &TransferEvent| {
        if let TransferEvent::Progress { .. } = event {
            let problem = run(&second);
            assert!(
                matches!(&problem, Err(Error::Convert(ConvertProblem::Busy { path })) if *path == out),
                "{problem:?}"
            );
            refused += 1;
        }
    };
    conversion(tiny("klein"), Format::Q8_0, &out).run(&mut meanwhile, &CancelToken::new()).unwrap();
    assert!(refused > 10);
    let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["out"]);
    // Afterwards nothing blocks another conversion.
    run(&Conversion { replace: true, ..second }).unwrap();
}

#[test]
fn a_folder_that_was_being_replaced_is_not_lost_and_does_not_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (out, old) = (temp.path().join("out"), temp.path().join(".out.old"));
    let again = conversion(tiny("klein"), Format::Q8_0, &out);
    let forced = Conversion { replace: true, ..again.clone() };
    run(&conversion(tiny("klein"), Format::Bf16, &out)).unwrap();
    let before = files(&out);
    // Killed between its two renames: the old model is restored.
    std::fs::rename(&out, &old).unwrap();
    assert!(matches!(run(&again), Err(Error::Convert(ConvertProblem::Exists { .. }))));
    assert!(files(&out) == before && !old.exists());
    std::fs::rename(&out, &old).unwrap();
    run(&forced).unwrap();
    assert!(out.join("transformer/diffusion_pytorch_model.gguf").is_file() && !old.exists());
    // Killed before the old model was removed.
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("model_index.json"), b"{}").unwrap();
    run(&forced).unwrap();
    assert!(ModelFiles::open(&model(&out)).is_ok() && !old.exists());
}

#[test]
fn a_source_is_never_replaced_with_what_it_lies_in() {
    let temp = tempfile::tempdir().unwrap();
    let outer = copy_of_tiny(temp.path());
    let inner = outer.join("inner");
    run(&conversion(tiny("klein"), Format::Bf16, &inner)).unwrap();
    let before = files(&outer);
    let crossed = temp.path().join("elsewhere/../copy");
    std::fs::create_dir(temp.path().join("elsewhere")).unwrap();
    for (from, to) in [(&inner, &outer), (&inner, &crossed), (&outer, &inner), (&outer, &outer.join("new"))] {
        let problem = run(&Conversion { replace: true, ..conversion(&**from, Format::Q8_0, to) });
        assert!(matches!(problem, Err(Error::Convert(ConvertProblem::IsSource { .. }))), "{problem:?}");
    }
    assert!(files(&outer) == before);
}

/// Runs the conversion and cancels it after the given number of bytes is written.
fn cancelled_at(conversion: &Conversion, bytes: u64) {
    let cancel = CancelToken::new();
    let result = conversion.run(
        &mut |event: &TransferEvent| {
            if let TransferEvent::Progress { done } = event
                && *done >= bytes
            {
                cancel.cancel();
            }
        },
        &cancel,
    );
    assert!(matches!(result, Err(Error::Cancelled(_))), "{result:?}");
}

#[test]
fn what_was_interrupted_goes_on_and_comes_to_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let source = tiny("klein-bfl/transformer.safetensors");
    let (whole, out) = (temp.path().join("whole.gguf"), temp.path().join("out.gguf"));
    run(&conversion(&*source, Format::Q8_0, &whole)).unwrap();
    let expected = std::fs::read(&whole).unwrap();
    let (part, list) = (temp.path().join(".out.gguf.part"), temp.path().join(".out.gguf.part.done"));
    let conversion = conversion(&*source, Format::Q8_0, &out);
    let half = expected.len() as u64 / 2;
    let damages: [(&str, &dyn Fn()); 6] = [
        ("as it was left", &|| ()),
        ("a byte in the first tensor", &|| flip(&part, expected.len() / 10)),
        ("a byte of the header", &|| flip(&part, 20)),
        ("cut short", &|| cut(&part, expected.len() as u64 / 3)),
        ("a list of nonsense", &|| std::fs::write(&list, [0xff; 1000]).unwrap()),
        ("no list", &|| std::fs::remove_file(&list).unwrap()),
    ];
    for (what, damage) in damages {
        cancelled_at(&conversion, half);
        assert!(!out.exists() && part.exists(), "{what}");
        let kept = std::fs::read_to_string(&list).unwrap().lines().count();
        assert!(kept > 3, "{what}: {kept} tensors are finished");
        damage();
        run(&conversion).unwrap();
        assert!(std::fs::read(&out).unwrap() == expected, "{what}");
        assert!(!part.exists() && !list.exists(), "{what}");
        std::fs::remove_file(&out).unwrap();
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn tensors_that_are_finished_are_not_made_again() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let conversion = conversion(tiny("klein"), Format::Q8_0, &out);
    let mut total = 0;
    let mut started = |event: &TransferEvent| {
        if let TransferEvent::Started { total: bytes, .. } = event {
            total = *bytes;
        }
    };
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(conversion.run(&mut started, &cancel), Err(Error::Cancelled(_))));
    cancelled_at(&conversion, total - 1000);
    // The transformer is complete and was kept, as its modification time shows; partial files of another format were
    // not.
    let work = temp.path().join(".out.part");
    let kept = work.join("transformer/diffusion_pytorch_model.gguf");
    let before = std::fs::metadata(&kept).unwrap().modified().unwrap();
    std::fs::write(work.join("transformer/other.gguf"), b"").unwrap();
    run(&conversion).unwrap();
    let after = std::fs::metadata(out.join("transformer/diffusion_pytorch_model.gguf")).unwrap();
    assert_eq!(after.modified().unwrap(), before);
    assert!(!work.exists() && !out.join("transformer/other.gguf").exists());
    assert!(ModelFiles::open(&model(&out)).is_ok());
}

#[test]
fn what_is_there_is_replaced_only_where_that_is_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let problem = |conversion: &Conversion| match run(conversion) {
        Err(error @ Error::Convert(_)) => {
            assert!(error.remedy().is_some());
            let Error::Convert(problem) = error else { unreachable!("matched above") };
            problem
        }
        other => panic!("{other:?}"),
    };
    let source = copy_of_tiny(temp.path());
    let force = |c: Conversion| Conversion { replace: true, ..c };
    let onto = |out: &Path| conversion(&*source, Format::Q8_0, out);
    assert_eq!(problem(&force(onto(&source))), ConvertProblem::IsSource { path: source.clone() });

    let precious = temp.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("letter"), b"dear").unwrap();
    assert_eq!(problem(&onto(&precious)), ConvertProblem::Exists { path: precious.clone() });
    assert_eq!(problem(&force(onto(&precious))), ConvertProblem::NoModel { path: precious.clone() });
    assert_eq!(std::fs::read(precious.join("letter")).unwrap(), b"dear");

    let model = temp.path().join("model");
    run(&conversion(&*source, Format::Bf16, &model)).unwrap();
    assert_eq!(problem(&onto(&model)), ConvertProblem::Exists { path: model.clone() });
    run(&force(onto(&model))).unwrap();
    assert!(model.join("transformer/diffusion_pytorch_model.gguf").is_file());
    assert!(!model.join("transformer/diffusion_pytorch_model.safetensors").exists());

    let file = temp.path().join("file.gguf");
    std::fs::write(&file, b"old").unwrap();
    let part = |out: &Path| Conversion { part: Some(Part::Transformer), ..onto(out) };
    assert_eq!(problem(&part(&file)), ConvertProblem::Exists { path: file.clone() });
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    run(&force(part(&file))).unwrap();
    assert!(Component::<TransformerConfig>::open(&*file).is_ok());
    assert_eq!(problem(&force(part(&model))), ConvertProblem::Exists { path: model.clone() });
    assert_eq!(problem(&conversion(&*source, Format::AsStored, &temp.path().join("x"))), ConvertProblem::NoFormat);
}
