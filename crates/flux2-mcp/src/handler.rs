//! The protocol's side of the tools: what a client is told of the server, and its calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flux2_session::History;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use tokio::sync::Semaphore;

use crate::album::Album;
use crate::call::Call;
use crate::desk::{Desk, ToolError};
use crate::root::Root;
use crate::tools;

/// Calls that are carried out at one time, of all callers together; further ones are refused.
const MAX_CALLS: usize = 64;

/// Answers the requests of clients. Clones are handles of the same one.
#[derive(Clone)]
pub struct Handler(Arc<Shared>);

struct Shared {
    /// Where all calls go; `None` where each request brings its own.
    desk: Option<Arc<dyn Desk>>,
    /// The folder of files, if calls may name files.
    root: Option<Arc<Root>>,
    /// The pictures of each owner.
    albums: Mutex<HashMap<String, Arc<Album>>>,
    calls: Semaphore,
}

impl Handler {
    /// For clients that belong to one caller. Files are below `root`, also where the history knows others.
    pub fn of_one(desk: Arc<dyn Desk>, root: Root, history: History) -> Self {
        let root = Arc::new(root);
        let album = Album::new(Some(Arc::clone(&root)), history);
        let albums = HashMap::from([(desk.owner().to_owned(), Arc::new(album))]);
        Self::new(Some(desk), Some(root), albums)
    }

    /// For a server, whose requests each bring a desk as an extension of their head. There are no files.
    #[cfg(feature = "http")]
    pub(crate) fn of_many() -> Self {
        Self::new(None, None, HashMap::new())
    }

    fn new(desk: Option<Arc<dyn Desk>>, root: Option<Arc<Root>>, albums: HashMap<String, Arc<Album>>) -> Self {
        let calls = Semaphore::new(MAX_CALLS);
        Handler(Arc::new(Shared { desk, root, albums: Mutex::new(albums), calls }))
    }

    fn album(&self, owner: &str) -> Arc<Album> {
        let mut albums = self.0.albums.lock().unwrap_or_else(PoisonError::into_inner);
        let album = albums.entry(owner.to_owned()).or_insert_with(|| Arc::new(Album::in_memory()));
        Arc::clone(album)
    }

    fn call_of(&self, context: RequestContext<RoleServer>) -> Option<Call> {
        let desk = desk_of(&context).or_else(|| self.0.desk.clone())?;
        Some(Call { album: self.album(desk.owner()), desk, context })
    }
}

/// The desk that a request has brought.
#[cfg(feature = "http")]
fn desk_of(context: &RequestContext<RoleServer>) -> Option<Arc<dyn Desk>> {
    context.extensions.get::<http::request::Parts>()?.extensions.get::<Arc<dyn Desk>>().cloned()
}

#[cfg(not(feature = "http"))]
fn desk_of(_context: &RequestContext<RoleServer>) -> Option<Arc<dyn Desk>> {
    None
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let files = match &self.0.root {
            Some(root) => format!("Pictures are written to {}; paths are below it.", root.path().display()),
            None => "Pictures come back in answers and below the address of the server; there are no files.".into(),
        };
        let about = Implementation::new("dj-flux2", env!("CARGO_PKG_VERSION")).with_title("dj-flux2: FLUX.2 [klein]");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(about).with_instructions(
            format!(
                "Draws, edits and enlarges pictures on this machine with FLUX.2 [klein]. Every picture has a number: $3 \
                 is the third, $-1 the latest, $fox the one named fox; edit and upscale take them. {files} Call \
                 list_models once to see what the default model can draw."
            ),
        )
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::TOOLS.to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::find(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = tools::find(&request.name) else {
            let (name, known): (String, Vec<_>) =
                (request.name.chars().take(60).collect(), tools::TOOLS.iter().map(|tool| &*tool.name).collect());
            let message = format!("there is no tool {name:?}; the tools are {}", known.join(", "));
            return Err(ErrorData::invalid_params(message, None));
        };
        let Some(call) = self.call_of(context) else {
            return Err(ErrorData::internal_error("a bug: nobody knows who calls", None));
        };
        // A call that ends others is let in whatever there are.
        let permit = self.0.calls.try_acquire();
        if permit.is_err() && tool.name != "cancel" {
            let message = format!("{MAX_CALLS} calls are in progress");
            return Ok(refused(&ToolError::new(message, "wait until one ends, or cancel one")).into());
        }
        // A call that panics ends alone, and is answered.
        let done = tokio::spawn(tools::call(tool, request.arguments, call)).await;
        Ok(match done {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => refused(&error),
            Err(error) => refused(&ToolError(format!("a bug: {error}"))),
        }
        .into())
    }
}

fn refused(error: &ToolError) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(format!("error: {error}"))])
}
