//! Pictures in an S3-compatible store: moto, which `.ci/s3` starts.

use flux2_fleet::Place;
use flux2_jobs::{Draft, JobState, Queue as _, Submission};

use crate::site::{Site, end, order, steps_of};

#[test]
#[ignore = "needs the server that .ci/s3 starts"]
fn pictures_are_kept_in_s3() {
    let endpoint = std::env::var("DJ_FLUX2_TEST_S3").expect("run .ci/s3, which sets DJ_FLUX2_TEST_S3");
    let variables = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "a secret"),
        ("AWS_REGION", "us-east-1"),
        ("HOME", "/"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let place: Place = "s3://pictures/fleet".parse().unwrap();
    let mut site = Site::new();
    site.place = place.with_variables(variables.into_iter());
    assert!(!format!("{:?}", site.place).contains("secret"));
    let _worker = site.worker("a", steps_of(0));
    let (first, second) = (site.front(), site.front());
    let image = flux2::image::RgbImage::new(64, 64, vec![9; 64 * 64 * 3]).unwrap();
    let png = flux2::image::encode(&image, flux2::image::ImageFormat::Png, None).unwrap();
    let digest = first.put_blob(&png).unwrap();
    let draft = Draft { references: vec![digest.clone()], ..order("as this").draft };
    let id = second.submit(Submission { draft, ..Submission::default() }).unwrap().id;
    let job = end(&second, id);
    assert_eq!(job.state, JobState::Done, "{:?}", job.failure);
    let picture = second.image(id, 0).unwrap().unwrap();
    assert_eq!(flux2::digest::sha256(&picture.bytes), job.images[0].sha256);
    // Stored twice is stored once, and what is not there is no error.
    assert_eq!(first.put_blob(&png).unwrap(), digest);
    assert_eq!(first.blob(&"0".repeat(64)).unwrap(), None);
}
