//! The native API, below `/api/v1`: jobs that are made, watched, cancelled and fetched.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | types of jobs |
//! | `jobs` | jobs, their events |
//! | `images` | finished images and thumbnails |
//! | `gallery` | favorites, images that are deleted and restored |
//! | `forecast` | what a job would take |
//! | `parameters` | the parameters in an image file |
//! | `about` | models, capabilities, statistics, and their types |
//! | `times` | how an image was drawn |
//! | `source` | fields of a request that paints into a picture |
//! | `uploads` | images by digest |

mod about;
mod forecast;
mod gallery;
mod images;
mod jobs;
mod parameters;
mod source;
pub mod times;
mod uploads;
pub mod wire;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub use images::answer_picture;

/// These routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(jobs::create, jobs::list))
        .routes(routes!(jobs::one, jobs::cancel))
        .routes(routes!(jobs::events))
        .routes(routes!(forecast::create))
        .routes(routes!(images::image, gallery::delete))
        .routes(routes!(gallery::restore))
        .routes(routes!(gallery::mark, gallery::unmark))
        .routes(routes!(images::thumbnail))
        .routes(routes!(uploads::create))
        .routes(routes!(uploads::one))
        .routes(routes!(uploads::image))
        .routes(routes!(parameters::read))
        .routes(routes!(about::models))
        .routes(routes!(about::capabilities))
        .routes(routes!(about::stats))
}
