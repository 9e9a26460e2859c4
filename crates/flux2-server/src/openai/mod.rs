//! OpenAI's images API, below `/v1` and, as some clients want it, without that.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | its types |
//! | `generate` | a request to a job, its end to a response |
//! | `stream` | the same as events |
//! | `models` | the list of models |

mod generate;
mod models;
mod stream;
pub mod wire;

use axum::Router;
use axum::routing::post;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub use models::all as list_models;

/// These routes.
pub fn routes() -> OpenApiRouter<App> {
    let bare = Router::new()
        .route("/images/generations", post(generate::generations))
        .route("/images/edits", post(generate::edits))
        .route("/images/variations", post(generate::variations));
    OpenApiRouter::new()
        .routes(routes!(generate::generations))
        .routes(routes!(generate::edits))
        .routes(routes!(generate::variations))
        .routes(routes!(generate::file))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .merge(bare.into())
}
