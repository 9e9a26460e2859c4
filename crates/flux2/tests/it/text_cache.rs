//! The disk cache of text embeddings: hits only for equal inputs, no trust in files, failures that change nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flux2::event::TextCacheEvent;
use flux2::image::RgbImage;
use flux2::pipeline::{Pipeline, Residency};
use flux2::weights::Part;
use flux2::{CancelToken, Event, GenerateRequest, ModelPaths, Phase, TextCache, Variant};
use flux2_backend::cpu::Tier;
use flux2_backend::{Compute, CpuBackend, CpuOptions, Runtime};
use tempfile::TempDir;

use crate::golden::{f32_backend, fixture};

fn klein() -> ModelPaths {
    ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }
}

/// A cache for encoders of any size.
fn cache(folder: &Path) -> TextCache {
    TextCache { min_parameters: 0, ..TextCache::new(folder) }
}

fn load(paths: &ModelPaths, cache: Option<TextCache>) -> Pipeline<CpuBackend> {
    Pipeline::load(f32_backend(), paths, Residency::OneAtATime).unwrap().with_text_cache(cache)
}

/// The embedding of a prompt from a new pipeline, and the events of encoding it.
fn encode(paths: &ModelPaths, cache: Option<TextCache>, prompt: &str) -> (Vec<f32>, Vec<Event>) {
    let mut events = vec![];
    let mut observer = |event: &Event| events.push(event.clone());
    let mut pipeline = load(paths, cache);
    let text = pipeline.encode_prompt(prompt, &mut observer, &CancelToken::new()).unwrap();
    (pipeline.backend().download(&text.rows).unwrap(), events)
}

fn is_hit(events: &[Event]) -> bool {
    matches!(events, [Event::TextCache(TextCacheEvent::Found { .. })])
}

/// Whether the text encoder was loaded and run.
fn is_computed(events: &[Event]) -> bool {
    let started = |wanted| events.iter().any(|e| matches!(e, Event::PhaseStarted { phase, .. } if *phase == wanted));
    started(Phase::Load(Part::TextEncoder)) && started(Phase::Text)
}

/// Names and bytes of all files in a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).map(|entries| entries.map(|e| e.unwrap().path()).collect()).unwrap_or(vec![]);
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.iter().map(|path| (name(path), fs::read(path).unwrap_or_default())).collect()
}

/// Path and bytes of the only file in a folder.
fn only_entry(folder: &Path) -> (PathBuf, Vec<u8>) {
    let files = contents(folder);
    assert_eq!(files.len(), 1, "{:?}", files.keys());
    let (name, bytes) = files.into_iter().next().unwrap();
    (folder.join(name), bytes)
}

#[test]
fn the_second_run_does_not_load_the_encoder_and_draws_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let texts = folder.path().join("a/b");
    let paths = ModelPaths { variant: Some(Variant::by_name("klein-base").unwrap()), ..klein() };
    let draw = |cache: Option<TextCache>| -> (RgbImage, Vec<Event>) {
        let mut events = vec![];
        let request = GenerateRequest {
            prompt: "a red fox".into(),
            width: Some(64),
            height: Some(64),
            steps: Some(2),
            ..Default::default()
        };
        let mut observer = |event: &Event| events.push(event.clone());
        let made = load(&paths, cache).generate(&request, &mut observer, &CancelToken::new()).unwrap();
        (made.image, events)
    };
    let (without, _) = draw(None);
    let (first, events) = draw(Some(cache(&texts)));
    assert!(is_computed(&events) && first == without);
    // The prompt and, with guidance, the empty one.
    assert_eq!(contents(&texts).len(), 2);
    let (second, events) = draw(Some(cache(&texts)));
    let found = events.iter().filter(|e| matches!(e, Event::TextCache(TextCacheEvent::Found { .. }))).count();
    assert!(!is_computed(&events) && found == 2 && second == without);
    assert!(!events.iter().any(|e| matches!(e, Event::PhaseStarted { phase: Phase::Load(Part::TextEncoder), .. })));
}

#[test]
fn a_cached_long_prompt_is_still_warned_of() {
    let folder = TempDir::new().unwrap();
    let warned = || {
        let mut pipeline = load(&klein(), Some(cache(folder.path())));
        pipeline.encode_prompt(&"fox ".repeat(600), &mut |_: &Event| {}, &CancelToken::new()).unwrap().warning
    };
    let first = warned();
    assert!(first.is_some() && first == warned());
}

#[test]
fn without_a_cache_and_with_a_small_encoder_nothing_is_written() {
    let folder = TempDir::new().unwrap();
    let texts = folder.path().join("texts");
    for cache in [None, Some(TextCache::new(&texts))] {
        let (_, events) = encode(&klein(), cache, "a red fox");
        assert!(is_computed(&events) && !events.iter().any(|e| matches!(e, Event::TextCache(_))));
    }
    assert!(!texts.exists());
}

#[test]
fn neither_the_prompt_nor_a_path_is_stored() {
    let folder = TempDir::new().unwrap();
    encode(&klein(), Some(cache(folder.path())), "a red fox");
    let (path, bytes) = only_entry(folder.path());
    let name = path.file_name().unwrap().to_str().unwrap();
    let key = name.strip_suffix(".text").unwrap();
    assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    for word in ["fox", "klein", "fixtures"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_damaged_entry_is_computed_and_written_again() {
    let folder = TempDir::new().unwrap();
    let encode = |prompt| encode(&klein(), Some(cache(folder.path())), prompt);
    let (values, _) = encode("a red fox");
    let (path, good) = only_entry(folder.path());
    encode("a blue hare");
    let other = contents(folder.path()).into_values().find(|bytes| *bytes != good).unwrap();

    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), vec![]),
        ("foreign".into(), b"not an entry at all".to_vec()),
        ("without its last byte".into(), good[..good.len() - 1].to_vec()),
        ("cut within its header".into(), good[..50].to_vec()),
        ("with a byte too many".into(), [good.as_slice(), &[0]].concat()),
        ("of another prompt".into(), other),
        ("of zeros".into(), vec![0; good.len()]),
    ];
    // Offsets of magic, version, dtype, rows, columns, key, checksum, first and last value.
    for at in [0, 8, 12, 16, 24, 32, 63, 64, 95, 96, good.len() - 1] {
        cases.push((format!("changed at {at}"), changed(at)));
    }
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let (again, events) = encode("a red fox");
        assert!(is_computed(&events) && again == values, "{what}");
        assert!(fs::read(&path).unwrap() == good, "{what}");
        assert!(is_hit(&encode("a red fox").1), "{what}");
    }
}

#[test]
fn what_is_no_file_is_no_entry() {
    let folder = TempDir::new().unwrap();
    let encode = || encode(&klein(), Some(cache(folder.path())), "a red fox");
    let (values, _) = encode();
    let (path, good) = only_entry(folder.path());
    fs::remove_file(&path).unwrap();

    #[cfg(unix)]
    {
        let elsewhere = TempDir::new().unwrap();
        let target = elsewhere.path().join("target");
        fs::write(&target, &good).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(is_computed(&encode().1));
        // The link is replaced, its target is kept.
        assert!(!path.is_symlink() && fs::read(&path).unwrap() == good && target.exists());
        fs::remove_file(&path).unwrap();
    }

    fs::create_dir(&path).unwrap();
    let (again, events) = encode();
    assert!(is_computed(&events) && again == values && path.is_dir());
    assert!(matches!(events.last(), Some(Event::TextCache(TextCacheEvent::NotKept { .. }))), "{events:?}");
}

#[test]
fn a_folder_that_cannot_be_written_to_fails_nothing() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    let (expected, _) = encode(&klein(), None, "a red fox");
    for texts in [file.clone(), file.join("below")] {
        let (values, events) = encode(&klein(), Some(cache(&texts)), "a red fox");
        assert!(values == expected);
        let Some(Event::TextCache(TextCacheEvent::NotKept { path, reason })) = events.last() else {
            panic!("{events:?}");
        };
        assert!(path.starts_with(&texts) && !reason.is_empty());
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// A copy of the tiny model that a test may change.
fn copy_of_klein(folder: &Path) -> ModelPaths {
    for part in ["", "transformer", "text_encoder", "vae", "tokenizer"] {
        fs::create_dir_all(folder.join(part)).unwrap();
        for entry in fs::read_dir(fixture("tiny/klein").join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, folder.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    ModelPaths { model: folder.into(), ..Default::default() }
}

#[test]
fn whatever_the_values_depend_on_is_in_the_key() {
    let (folder, model) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let paths = copy_of_klein(model.path());
    let entries = || contents(folder.path()).len();
    let with = |compute, tier, prompt: &str| {
        let be = CpuBackend::new(CpuOptions { compute, tier, ..Default::default() }).unwrap();
        let pipeline = Pipeline::load(be, &paths, Residency::OneAtATime).unwrap();
        let mut pipeline = pipeline.with_text_cache(Some(cache(folder.path())));
        let text = pipeline.encode_prompt(prompt, &mut |_: &Event| {}, &CancelToken::new()).unwrap();
        pipeline.backend().download(&text.rows).unwrap()
    };
    let fox = || with(Compute::F32, Some(Tier::Portable), "a red fox");
    let first = fox();
    assert_eq!((fox() == first, entries()), (true, 1));

    // The prompt.
    with(Compute::F32, Some(Tier::Portable), "a red fox.");
    assert_eq!(entries(), 2);
    // The compute dtype and the kernels.
    let rounded = with(Compute::Bf16, Some(Tier::Portable), "a red fox");
    assert_eq!((rounded == first, entries()), (false, 3));
    if Tier::detect() != Tier::Portable {
        with(Compute::F32, None, "a red fox");
        assert_eq!(entries(), 4);
    }

    // The taps.
    let (known, file) = (entries(), model.path().join("model_index.json"));
    let index = fs::read_to_string(&file).unwrap();
    fs::write(&file, index.replacen('{', r#"{"text_encoder_out_layers": [8, 18, 27],"#, 1)).unwrap();
    assert_eq!((fox() == first, entries()), (false, known + 1));
    // The number of tokens.
    fs::write(&file, index.replacen('{', r#"{"max_sequence_length": 500,"#, 1)).unwrap();
    assert_eq!((fox().len() < first.len(), entries()), (true, known + 2));
    fs::write(&file, &index).unwrap();
    // A constant of the network's configuration.
    let file = model.path().join("text_encoder/config.json");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("1e-06", "1e-05")).unwrap();
    assert_eq!((fox() == first, entries()), (false, known + 3));
    fs::write(&file, &config).unwrap();
    assert_eq!((fox() == first, entries()), (true, known + 3));
}

#[test]
fn weights_that_changed_are_another_encoder() {
    let (folder, model) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let paths = copy_of_klein(model.path());
    let encode = || encode(&paths, Some(cache(folder.path())), "a red fox");
    let file = model.path().join("text_encoder/model-00001-of-00002.safetensors");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    let set_time = |time| File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    let (first, _) = encode();
    assert!(is_hit(&encode().1));

    // Change the last value and restore the time: tensors of this size are hashed as a whole.
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    set_time(time);
    let (changed, events) = encode();
    assert!(is_computed(&events) && changed != first);

    // Change the time and no byte.
    set_time(time + Duration::from_secs(60));
    let (same, events) = encode();
    assert!(is_computed(&events) && same == changed);
}

#[test]
fn what_was_used_longest_ago_goes_first_and_nothing_else_does() {
    let folder = TempDir::new().unwrap();
    let foreign = ["notes.txt", "picture.text", &format!("{}.text", "G".repeat(64)), ".dj-flux2-text-mine"];
    for name in foreign {
        fs::write(folder.path().join(name), vec![0; 1 << 20]).unwrap();
    }
    let texts = || -> Vec<String> {
        let mut names: Vec<String> = contents(folder.path()).into_keys().collect();
        names.retain(|name| !foreign.contains(&name.as_str()));
        names
    };
    let encode =
        |prompt: &str, max_bytes| encode(&klein(), Some(TextCache { max_bytes, ..cache(folder.path()) }), prompt).1;
    encode("one", u64::MAX);
    let one = texts().remove(0);
    let entry_bytes = fs::metadata(folder.path().join(&one)).unwrap().len();
    // Room for two and a half entries.
    let max = 5 * entry_bytes / 2;
    encode("two", max);
    let two = texts().into_iter().find(|name| *name != one).unwrap();
    // File timestamps may be coarse, so set them: both used an hour ago, the first before the second.
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for (name, later) in [(&one, 0), (&two, 10)] {
        let file = File::options().write(true).open(folder.path().join(name)).unwrap();
        file.set_modified(hour_ago + Duration::from_secs(later)).unwrap();
    }
    // A hit makes an entry the most recently used.
    assert!(is_hit(&encode("one", max)));
    encode("three", max);
    assert_eq!((texts().len(), texts().contains(&one), texts().contains(&two)), (2, true, false));

    // The temporary file of a killed process counts, and is removed in its turn.
    let left = folder.path().join(".dj-flux2-text-abc123.tmp");
    fs::write(&left, vec![0; entry_bytes as usize / 4]).unwrap();
    File::options().write(true).open(&left).unwrap().set_modified(hour_ago).unwrap();
    encode("four", max);
    assert!(!left.exists() && texts().len() == 2);

    // An entry larger than the limit removes nothing.
    let before = texts();
    let events = encode("five", entry_bytes - 1);
    assert!(matches!(events.last(), Some(Event::TextCache(TextCacheEvent::NotKept { .. }))));
    assert_eq!(texts(), before);
    assert!(foreign.iter().all(|name| folder.path().join(name).exists()));
}

#[test]
fn several_processes_share_a_folder() {
    let folder = TempDir::new().unwrap();
    let prompts = ["one", "two", "three"];
    let expected = prompts.map(|prompt| encode(&klein(), None, prompt).0);
    encode(&klein(), Some(cache(folder.path())), prompts[0]);
    let (_, bytes) = only_entry(folder.path());
    // Room for two of three, so that threads remove what others read.
    let cache = TextCache { max_bytes: 2 * bytes.len() as u64, ..cache(folder.path()) };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (cache, expected) = (&cache, &expected);
            scope.spawn(move || {
                for round in 0..6 {
                    let i = (thread + round) % prompts.len();
                    let (values, _) = encode(&klein(), Some(cache.clone()), prompts[i]);
                    assert!(values == expected[i], "{}", prompts[i]);
                }
            });
        }
    });
    // Four concurrent writers may each have found room for one.
    let files = contents(folder.path());
    assert!(files.len() <= 2 + 3 && files.values().all(|file| file.len() == bytes.len()), "{:?}", files.keys());
}
