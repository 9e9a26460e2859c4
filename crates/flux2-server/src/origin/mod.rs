//! The API of the Python program dj-flux2, so that its clients work unmodified: seven routes and a WebSocket.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | its types |
//! | `routes` | the seven routes |
//! | `socket` | progress over a WebSocket |

mod routes;
mod socket;
mod wire;

use axum::Router;
use axum::middleware::map_response;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::as_detail;

/// These routes. OpenAPI has no words for the WebSocket.
pub fn routes() -> OpenApiRouter<App> {
    let socket = Router::new().route("/ws/{token}", get(socket::connect));
    OpenApiRouter::new()
        .routes(routes!(routes::generate))
        .routes(routes!(routes::status))
        .routes(routes!(routes::result))
        .routes(routes!(routes::queue))
        .routes(routes!(routes::cancel))
        .routes(routes!(routes::models))
        .merge(socket.into())
        .layer(map_response(as_detail))
}
