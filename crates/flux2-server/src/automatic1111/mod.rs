//! The part of AUTOMATIC1111's API that other programs use, below `/sdapi/v1`.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | types of requests and answers |
//! | `draw` | `txt2img` and `img2img` |
//! | `watch` | progress, interruption |
//! | `extras` | enlarging an image that is there |
//! | `lists` | options, and lists of what there is |

mod draw;
mod extras;
mod lists;
mod watch;
mod wire;

use axum::middleware::map_response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::as_detail;

/// These routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(draw::txt2img))
        .routes(routes!(draw::img2img))
        .routes(routes!(watch::progress))
        .routes(routes!(watch::interrupt))
        .routes(routes!(lists::options, lists::set_options))
        .routes(routes!(lists::sd_models))
        .routes(routes!(lists::samplers))
        .routes(routes!(lists::schedulers))
        .routes(routes!(lists::upscalers))
        .routes(routes!(lists::loras))
        .routes(routes!(lists::memory))
        .routes(routes!(lists::png_info))
        .routes(routes!(extras::extra_single_image))
        .layer(map_response(as_detail))
}
