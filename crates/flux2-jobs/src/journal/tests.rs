//! Jobs come back as they were; a damaged database is set aside.

use flux2::image::{ImageFormat, Quality};
use flux2::{NoiseKind, Precision};

use super::*;
use crate::failure::{FailureClass, JobFailure};
use crate::spec::{JobSpec, LoraKey, ModelKey};
use crate::submission::Priority;
use crate::view::{CacheHits, DrawingRecord, ImageInfo, JobState, Times};

fn row(owner: &str) -> Row {
    let time = |seconds| UNIX_EPOCH + std::time::Duration::from_millis(seconds);
    Row {
        id: JobId::new(),
        owner: owner.into(),
        idempotency_key: Some("key".into()),
        priority: Priority::Low,
        state: JobState::Failed,
        spec: JobSpec {
            model: ModelKey {
                name: "klein-4b".into(),
                loras: vec![LoraKey { name: "style".into(), scale: 0.8 }],
                precision: Precision::FP8,
            },
            prompt: "a \"red\" fox\n\u{1f98a}".into(),
            negative_prompt: Some("blur".into()),
            template: None,
            references: vec!["ab".repeat(32)],
            source: None,
            width: 512,
            height: 256,
            steps: 4,
            guidance: Some(2.5),
            noise: NoiseKind::TORCH_CUDA_H100,
            compat: Some(flux2::Compat::Bfl),
            seed: u64::MAX - 3,
            count: 2,
            format: ImageFormat::WebP,
            quality: Quality::default(),
            metadata: false,
            watermark: true,
            upscale: Some(crate::spec::UpscaleSpec { upscaler: "lanczos".into(), by: 2.0 }),
        },
        times: Times { accepted: time(1), started: Some(time(20)), finished: None, deadline: Some(time(9_999)) },
        attempts: 3,
        work: 1.5e12,
        device: Some("cuda:1".into()),
        outcome: Outcome {
            warnings: vec!["w".into()],
            images: vec![ImageInfo {
                is_favorite: true,
                index: 0,
                seed: 7,
                sha256: "cd".repeat(32),
                bytes: 1234,
                width: 512,
                height: 256,
                format: ImageFormat::WebP,
            }],
            drawn: vec![DrawingRecord {
                text: 0.5,
                steps: vec![0.25, 0.125],
                batch: 2,
                cache: CacheHits { text: true, ..CacheHits::default() },
                ..DrawingRecord::default()
            }],
            failure: Some(JobFailure::new(FailureClass::NotFinite, "no numbers")),
            deleted: vec![rows::Deleted {
                image: ImageInfo {
                    is_favorite: false,
                    index: 1,
                    seed: 8,
                    sha256: "ef".repeat(32),
                    bytes: 12,
                    width: 512,
                    height: 256,
                    format: ImageFormat::WebP,
                },
                drawn: None,
                at: time(77),
            }],
        },
    }
}

fn reopened(folder: &Path) -> Opened {
    Journal::open(folder).unwrap()
}

#[test]
fn a_deleted_picture_goes_back_to_its_place() {
    let image = |index| ImageInfo { index, ..row("a").outcome.images[0].clone() };
    let drawn = |batch| DrawingRecord { batch, ..DrawingRecord::default() };
    let all = Outcome { images: (0..3).map(image).collect(), drawn: (0..3).map(drawn).collect(), ..Outcome::default() };
    let mut outcome = all.clone();
    assert!(outcome.delete(1) && outcome.delete(0));
    assert!(!outcome.delete(1) && !outcome.set_favorite(1, true) && outcome.has(1) && !outcome.has(3));
    assert_eq!((outcome.images.len(), outcome.drawn.clone()), (1, vec![drawn(2)]));
    let minute = std::time::Duration::from_secs(60);
    assert!(outcome.restore(1, minute) && outcome.restore(0, minute) && !outcome.restore(0, minute));
    assert_eq!(outcome, all);
    outcome.delete(2);
    outcome.deleted[0].at -= minute;
    assert!(!outcome.restore(2, minute));
    assert_eq!(outcome.forget_deleted(minute), [image(2)]);
}

#[test]
fn jobs_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = [row("a"), row("b"), row("c")];
    let Opened { journal, rows: none, generation, notices } = reopened(folder.path());
    assert_eq!((none, generation, notices), (vec![], 1, vec![]));
    rows.iter().for_each(|row| journal.begin(Change::Put(Box::new(row.clone()))).wait().unwrap());
    rows[1].state = JobState::Done;
    journal.write(Change::Put(Box::new(rows[1].clone())));
    journal.write(Change::Delete(vec![rows[0].id]));
    drop(journal);
    let opened = reopened(folder.path());
    assert_eq!((opened.rows, opened.generation), (rows[1..].to_vec(), 2));
}

#[test]
fn many_threads_share_commits_and_each_is_on_disk_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let journal = reopened(folder.path()).journal;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for _ in 0..20 {
                    journal.begin(Change::Put(Box::new(row(&thread.to_string())))).wait().unwrap();
                }
            });
        }
    });
    // A second reader sees them while the first is open.
    let beside = Connection::open(folder.path().join(FILE)).unwrap();
    assert_eq!(rows::read_all(&beside).unwrap().len(), 160);
}

/// Databases that cannot be read, made by `damage` from one with three jobs, and how many jobs are recovered.
fn damaged(damage: impl Fn(&Path), recovered: std::ops::RangeInclusive<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let journal = reopened(folder.path()).journal;
    (0..3).for_each(|_| journal.begin(Change::Put(Box::new(row("a")))).wait().unwrap());
    drop(journal);
    damage(&folder.path().join(FILE));
    let Opened { journal, rows, notices, .. } = reopened(folder.path());
    assert!(recovered.contains(&rows.len()), "{} rows: {notices:?}", rows.len());
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("renamed to") && notices[0].contains("journal.damaged-"), "{notices:?}");
    let aside = fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("journal.damaged-"));
    assert_eq!(aside.count(), 1);
    journal.begin(Change::Put(Box::new(row("new")))).wait().unwrap();
    drop(journal);
    let again = reopened(folder.path());
    assert_eq!((again.rows.len(), again.notices), (rows.len() + 1, vec![]));
}

#[test]
fn a_damaged_journal_is_set_aside() {
    damaged(
        |path| fs::write(path, "this is no database, and it is longer than a header of one would be").unwrap(),
        0..=0,
    );
    damaged(|path| fs::write(path, [0xA5; 50_000]).unwrap(), 0..=0);
    damaged(
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let half = bytes.len() / 2;
            bytes.truncate(half);
            fs::write(path, bytes).unwrap();
        },
        0..=3,
    );
    damaged(
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[4096..].fill(0x5A);
            fs::write(path, bytes).unwrap();
        },
        0..=0,
    );
}

#[test]
fn jobs_that_can_still_be_read_are_recovered() {
    let execute = |sql: &'static str| move |path: &Path| Connection::open(path).unwrap().execute_batch(sql).unwrap();
    damaged(execute("PRAGMA user_version = 99"), 3..=3);
    damaged(execute("UPDATE job SET spec = '{' WHERE id = (SELECT min(id) FROM job)"), 2..=2);
    damaged(execute("UPDATE job SET state = 'sleeping' WHERE id = (SELECT max(id) FROM job)"), 2..=2);
    damaged(execute("DROP TABLE job"), 0..=0);
}
