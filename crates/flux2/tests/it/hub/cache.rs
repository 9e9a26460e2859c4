//! The cache on disk: verified, repaired, shared with other programs.

use super::*;

#[test]
fn a_snapshot_with_files_missing_is_no_model() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    let cache = Cache::new(place.root());
    for path in ["vae/config.json", WEIGHTS] {
        let blob = snapshot.join(path).canonicalize().unwrap();
        let bytes = fs::read(&blob).unwrap();
        fs::remove_file(&blob).unwrap();
        match cache.state(&repo()).unwrap() {
            Some(State::Incomplete(missing)) => assert!(missing.contains(&path.to_owned()), "{missing:?}"),
            other => panic!("{other:?}"),
        }
        fs::write(&blob, bytes).unwrap();
        assert_eq!(cache.find(&repo()).unwrap().as_ref(), Some(&snapshot));
    }
    // Shards without their index, and an index without its shards.
    let encoder = snapshot.join("text_encoder");
    fs::rename(encoder.join("model.safetensors"), encoder.join("model-00001-of-00002.safetensors")).unwrap();
    let missing = |expected: &str| {
        assert_eq!(cache.state(&repo()).unwrap(), Some(State::Incomplete(vec![expected.into()])));
    };
    missing("text_encoder/model.safetensors.index.json");
    let map = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    fs::write(encoder.join("model.safetensors.index.json"), map).unwrap();
    missing("text_encoder/model-00002-of-00002.safetensors");
    fs::write(encoder.join("model-00002-of-00002.safetensors"), "").unwrap();
    assert_eq!(cache.find(&repo()).unwrap(), Some(snapshot));
}

#[test]
fn verify_reads_every_byte_and_remove_takes_all() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    let cache = Cache::new(place.root());
    let verify = || verify(&cache);
    let checked = verify();
    assert_eq!(checked.len(), 8);
    assert!(checked.iter().all(|file| file.verdict == Verdict::Whole));

    let blob = snapshot.join(WEIGHTS).canonicalize().unwrap();
    let mut damaged = fs::read(&blob).unwrap();
    damaged[77_777] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let damaged: Vec<_> = verify().into_iter().filter(|file| file.verdict != Verdict::Whole).collect();
    assert_eq!((damaged.len(), damaged[0].path.as_str(), damaged[0].verdict), (1, WEIGHTS, Verdict::Damaged));
    assert_eq!(damaged[0].blob.as_ref().map(|found| found.canonicalize().unwrap()), Some(blob.clone()));
    // Once removed, it is downloaded again, alone.
    fs::remove_file(&blob).unwrap();
    assert_whole(&place.root(), &place.download(&server).unwrap(), &model());
    assert_eq!((server.seen_of(WEIGHTS).len(), server.seen_of("vae/config.json").len()), (2, 1));

    // A model of another program is not removed.
    let other = place.root().join("models--a--b/snapshots");
    fs::create_dir_all(&other).unwrap();
    let listed = cache.list(&[]).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].repo, &listed[0].state), (&repo(), &State::Complete(snapshot)));
    let freed = cache.remove(&repo()).unwrap();
    assert_eq!(freed, Some(listed[0].bytes));
    assert_eq!((cache.remove(&repo()).unwrap(), cache.state(&repo()).unwrap()), (None, None));
    assert!(other.is_dir());
    assert_eq!(cache.list(&[]).unwrap(), []);
}

fn verify(cache: &Cache) -> Vec<Checked> {
    cache.verify(&repo(), &mut |_: &TransferEvent| {}, &CancelToken::new()).unwrap()
}

/// Files with this verdict.
fn with_verdict(checked: &[Checked], verdict: Verdict) -> Vec<&str> {
    checked.iter().filter(|file| file.verdict == verdict).map(|file| file.path.as_str()).collect()
}

/// Turns the links of a snapshot into files, by `place(blob, link)`.
fn without_links(snapshot: &Path, place: impl Fn(&Path, &Path)) {
    for (path, _) in model().files() {
        let link = snapshot.join(path);
        if let Ok(blob) = link.canonicalize() {
            fs::remove_file(&link).unwrap();
            place(&blob, &link);
        }
    }
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[30_000] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn files_without_links_are_compared_with_recorded_hashes() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    let cache = Cache::new(place.root());
    let bytes = cache.list(&[]).unwrap()[0].bytes;
    without_links(&snapshot, |blob, link| _ = fs::copy(blob, link).unwrap());
    fs::remove_dir_all(place.blobs()).unwrap();
    let checked = verify(&cache);
    assert_eq!((checked.len(), with_verdict(&checked, Verdict::Whole).len()), (8, 8));
    // "{}" is two files now and was one blob.
    assert_eq!(cache.list(&[]).unwrap()[0].bytes, bytes + 2);
    damage(&snapshot.join(WEIGHTS));
    fs::remove_file(snapshot.join("tokenizer/tokenizer.json")).unwrap();
    let checked = verify(&cache);
    assert_eq!(with_verdict(&checked, Verdict::Damaged), [WEIGHTS]);
    assert_eq!(with_verdict(&checked, Verdict::Missing), ["tokenizer/tokenizer.json"]);
    // Another program wrote the cache: nothing says what is right.
    fs::remove_dir_all(place.blobs().with_file_name("digests")).unwrap();
    let checked = verify(&cache);
    assert_eq!((checked.len(), with_verdict(&checked, Verdict::Unknown).len()), (7, 7));
    let bytes = bytes_below(&snapshot) + 40; // and that of refs/main
    assert_eq!(cache.remove(&repo()).unwrap(), Some(bytes));
    assert!(!place.blobs().parent().unwrap().exists());
}

fn bytes_below(folder: &Path) -> u64 {
    let of = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => bytes_below(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    fs::read_dir(folder).map_or(0, |entries| entries.map(|entry| of(entry.unwrap())).sum())
}

#[test]
fn blobs_beside_copies_are_their_hashes() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    let cache = Cache::new(place.root());
    let bytes = cache.list(&[]).unwrap()[0].bytes;
    fs::remove_dir_all(place.blobs().with_file_name("digests")).unwrap();
    without_links(&snapshot, |blob, link| _ = fs::copy(blob, link).unwrap());
    assert_eq!(with_verdict(&verify(&cache), Verdict::Whole).len(), 8);
    damage(&snapshot.join(WEIGHTS));
    assert_eq!(with_verdict(&verify(&cache), Verdict::Unknown), [WEIGHTS]);
    // A hard link is its blob, also if it is damaged. It takes no room of its own.
    #[cfg(unix)]
    {
        without_links(&snapshot, |_, _| {});
        for (path, bytes) in model().files().iter().filter(|(path, _)| snapshot.join(path).parent().unwrap().is_dir()) {
            let blob = place.blobs().join(hash(path, bytes));
            if blob.is_file() {
                fs::hard_link(blob, snapshot.join(path)).unwrap();
            }
        }
        assert_eq!(with_verdict(&verify(&cache), Verdict::Whole).len(), 8);
        assert!(cache.list(&[]).unwrap()[0].bytes <= bytes);
        damage(&snapshot.join(WEIGHTS));
        let checked = verify(&cache);
        assert_eq!(with_verdict(&checked, Verdict::Damaged), [WEIGHTS]);
        assert!(checked.iter().all(|file| file.blob.is_some()));
    }
}

#[test]
fn what_a_cache_without_links_holds_is_not_downloaded_again() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    without_links(&snapshot, |blob, link| _ = fs::copy(blob, link).unwrap());
    fs::remove_dir_all(place.blobs()).unwrap();
    damage(&snapshot.join(WEIGHTS));
    let before = server.seen().len();
    assert_whole(&place.root(), &place.download(&server).unwrap(), &model());
    // The list, and the file whose bytes are wrong.
    assert_eq!(server.seen().len(), before + 2);
    assert_eq!(server.seen_of(WEIGHTS).len(), 2);
}

#[test]
fn a_folder_of_the_users_is_compared_with_what_huggingface_hub_wrote_beside_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        fs::write(folder.path().join(path), bytes).unwrap();
    };
    for (path, bytes) in model().files() {
        write(path, bytes);
        let text = format!("{COMMIT}\n{}\n1700000000.0\n", hash(path, bytes));
        write(&format!(".cache/huggingface/download/{path}.metadata"), text.as_bytes());
    }
    write("notes.txt", b"mine");
    let check = || verify_folder(folder.path(), &mut |_: &TransferEvent| {}, &CancelToken::new()).unwrap();
    let count = model().files().len();
    assert_eq!((check().len(), with_verdict(&check(), Verdict::Whole).len()), (count, count));
    damage(&folder.path().join(WEIGHTS));
    assert_eq!(with_verdict(&check(), Verdict::Damaged), [WEIGHTS]);
    fs::remove_dir_all(folder.path().join(".cache")).unwrap();
    let checked = check();
    assert_eq!(with_verdict(&checked, Verdict::Unknown).len(), checked.len());
    assert!(verify_folder(&folder.path().join("none"), &mut |_: &TransferEvent| {}, &CancelToken::new()).is_err());
}

#[test]
fn a_whole_snapshot_is_found_wherever_refs_lead() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let snapshot = place.download(&server).unwrap();
    let cache = Cache::new(place.root());
    let found = || cache.find(&repo()).unwrap();
    let main = place.blobs().with_file_name("refs").join("main");
    // A newer commit of which another program has a file.
    let newer = snapshot.with_file_name("f".repeat(40));
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("README.md"), "new").unwrap();
    for commit in ["f".repeat(40), "e".repeat(40), format!("{COMMIT}\n"), String::new()] {
        fs::write(&main, &commit).unwrap();
        assert_eq!(found().as_ref(), Some(&snapshot), "{commit:?}");
    }
    fs::remove_dir_all(main.parent().unwrap()).unwrap();
    assert_eq!(found().as_ref(), Some(&snapshot));
    assert_eq!(with_verdict(&verify(&cache), Verdict::Whole).len(), 8);
    assert_eq!(cache.list(&[]).unwrap().len(), 1);
    // A file of weights at the top is less than a whole model, in whatever snapshot it is.
    fs::write(newer.join("model.safetensors"), "").unwrap();
    fs::create_dir(main.parent().unwrap()).unwrap();
    fs::write(&main, "f".repeat(40)).unwrap();
    assert_eq!(found().as_ref(), Some(&snapshot));
    fs::remove_dir_all(&snapshot).unwrap();
    assert_eq!(found(), Some(newer));
}

#[test]
fn upper_and_lower_case_of_a_repository_are_one() {
    let (place, server) = (Place::new(), Server::honest(model()));
    place.download(&server).unwrap();
    let (cache, folder) = (Cache::new(place.root()), place.blobs().parent().unwrap().to_owned());
    let other = folder.with_file_name("models--Black-Forest-Labs--flux.2-KLEIN-4b");
    fs::rename(&folder, &other).unwrap();
    let found = cache.find(&repo()).unwrap().unwrap();
    assert_eq!(found, other.join("snapshots").join(COMMIT));
    assert_eq!(with_verdict(&verify(&cache), Verdict::Whole).len(), 8);
    // Not downloaded a second time.
    assert_eq!(place.download(&server).unwrap(), found);
    assert!(!folder.exists());
    // Of two, the whole one.
    fs::create_dir_all(folder.join("snapshots")).unwrap();
    assert_eq!(cache.find(&repo()).unwrap(), Some(found));
    assert_eq!(cache.list(&[repo()]).unwrap().len(), 2);
    fs::remove_dir_all(&folder).unwrap();
    assert!(cache.remove(&repo()).unwrap().is_some() && !other.exists());
}

#[test]
fn a_model_that_is_being_downloaded_is_not_removed() {
    let (place, server) = (Place::new(), Server::honest(model()));
    place.download(&server).unwrap();
    let locks = place.root().join(".locks/models--black-forest-labs--FLUX.2-klein-4B");
    let lock = fs::read_dir(locks).unwrap().next().unwrap().unwrap().path();
    let file = fs::File::open(lock).unwrap();
    file.lock().unwrap();
    let cache = Cache::new(place.root());
    assert!(matches!(cache.remove(&repo()), Err(Error::InUse { .. })));
    drop(file);
    assert!(cache.remove(&repo()).unwrap().is_some());
}

#[test]
fn a_cache_that_is_not_one_is_empty() {
    let place = Place::new();
    let cache = Cache::new(place.root());
    assert_eq!((cache.find(&repo()).unwrap(), cache.list(&[]).unwrap()), (None, vec![]));
    // A ref that points outside the cache.
    let refs = place.root().join("models--black-forest-labs--FLUX.2-klein-4B/refs");
    fs::create_dir_all(&refs).unwrap();
    for main in ["../../../..", "", "main", &"0".repeat(39)] {
        fs::write(refs.join("main"), main).unwrap();
        assert_eq!(cache.state(&repo()).unwrap(), Some(State::Incomplete(vec![])), "{main}");
    }
}
