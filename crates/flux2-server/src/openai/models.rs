//! The models, in OpenAI's words.

use axum::Json;
use axum::extract::State;

use super::wire::{ModelList, ModelObject};
use crate::app::App;
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::Path;

/// Lists the models and their aliases.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "The models.", body = ModelList),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(all(&app))
}

/// All models by their names, then by their aliases.
pub fn all(app: &App) -> ModelList {
    let models = app.jobs.models();
    let names = models.iter().map(|model| &model.name);
    let aliases = models.iter().flat_map(|model| &model.aliases).chain(app.options.aliases.keys());
    ModelList { object: "list", data: names.chain(aliases).map(|name| object(name)).collect() }
}

fn object(id: &str) -> ModelObject {
    ModelObject { id: id.to_owned(), object: "model", created: 0, owned_by: "dj-flux2" }
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "openai",
    params(("id" = String, Path, description = "Its name; a slash in it is written as `%2F`.")),
    responses((status = 200, description = "The model.", body = ModelObject),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<ModelObject>> {
    let found = all(&app).data.into_iter().find(|model| model.id == id);
    found.map(Json).ok_or_else(|| ApiError::no_model(&id, None))
}
