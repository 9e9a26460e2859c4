//! The tools: what an agent reads of them, and what they do.

use std::pin::pin;
use std::sync::{Arc, LazyLock};

use flux2::CancelToken;
use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2_jobs::{CancelOutcome, Enlarged, Filter, JobId};
use flux2_session::Made;
use rmcp::model::{CallToolResult, JsonObject, Tool, ToolAnnotations};
use serde::Serialize;

use crate::album::Wanted;
use crate::call::{Call, QUIET};
use crate::desk::{Result, ToolError};
use crate::drawing::{self, text};
use crate::input::{CancelInput, EditInput, GenerateInput, NoInput, PlanInput, StatusInput, UpscaleInput};
use crate::record::{JobRecord, ModelsRecord, PictureRecord, PlanRecord};
use crate::root::Root;
use crate::{content, draft, picture, schema};

/// Jobs and pictures that a list has.
const LISTED: usize = 10;

/// All tools, in the order in which they are listed.
pub static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    vec![
        tool(
            "generate",
            "Draw a picture",
            "Draws a picture from a description with FLUX.2 [klein], and returns it as an image, with a JSON text that \
             has its file, its seed and its number: `$3` names it in later calls. Describe the finished picture \
             (subject, surroundings, light, style) in plain sentences; say what is there, not what is missing. Sizes \
             are in pixels and multiples of 16. A call that takes over wait_seconds returns the id of the job, which \
             goes on: ask job_status. Example: {\"prompt\": \"a red fox in the snow, morning light\", \"width\": 512, \
             \"height\": 512, \"name\": \"fox\"}",
            schema::of::<GenerateInput>(&["prompt"]),
            Effect::Adds,
        ),
        tool(
            "edit",
            "Edit or combine pictures",
            "Draws a new picture from one or more pictures and a description of the change, and returns it like \
             `generate`. The pictures are `$3`, `$-1` (the latest) or `$fox` of the history, files below the folder of \
             this server, or base64; the prompt calls them image 1, image 2 and so on. With `source` and `mask` it \
             repaints a part of a picture, and with `source` and `outpaint` it adds to its sides. Originals are never \
             changed. Example: {\"prompt\": \"make the background green\", \"references\": [\"$-1\"]}",
            schema::of::<EditInput>(&["prompt"]),
            Effect::Adds,
        ),
        tool(
            "upscale",
            "Enlarge a picture",
            "Enlarges a picture by a factor, with a small network or by Lanczos, and returns it like `generate`. It runs \
             outside of the queue and has no id: cancelling the call ends it. Example: {\"image\": \"$fox\", \"upscale\": 4}",
            schema::of::<UpscaleInput>(&["image"]),
            Effect::Adds,
        ),
        tool(
            "list_models",
            "List models",
            "Lists the models, the LoRAs, the upscalers, the limits of requests and the folder of files, as JSON. The \
             first model is used where none is named. Takes nothing.",
            schema::of::<NoInput>(&[]),
            Effect::Reads,
        ),
        tool(
            "plan",
            "Estimate time and memory",
            "Says what a call of `generate` or `edit` with the same arguments would take: size, steps, estimated \
             seconds, seconds of waiting and bytes of memory, as JSON. Nothing is drawn. Example: {\"width\": 1024, \
             \"height\": 1024, \"count\": 4}",
            schema::of::<PlanInput>(&[]),
            Effect::Reads,
        ),
        tool(
            "job_status",
            "See how far a job is",
            "Returns a job of `generate` or `edit` by its id: state, progress, and the pictures once it is done. With \
             wait_seconds it waits for the end. Without an id it lists the latest jobs and the latest pictures of the \
             history. Example: {\"id\": \"01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10\", \"wait_seconds\": 45}",
            schema::of::<StatusInput>(&[]),
            Effect::Reads,
        ),
        tool(
            "cancel",
            "Cancel a job",
            "Cancels a job that waits or runs, by its id. Pictures that are finished stay. Example: {\"id\": \
             \"01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10\"}",
            schema::of::<CancelInput>(&["id"]),
            Effect::Stops,
        ),
    ]
});

/// What a tool does to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Reads,
    Adds,
    Stops,
}

fn tool(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    schema: Arc<JsonObject>,
    effect: Effect,
) -> Tool {
    let annotations = ToolAnnotations::with_title(title)
        .read_only(effect == Effect::Reads)
        .destructive(effect == Effect::Stops)
        .idempotent(effect != Effect::Adds)
        .open_world(false);
    let mut tool = Tool::new(name, description, schema);
    tool.title = Some(title.to_owned());
    tool.annotations = Some(annotations);
    tool
}

/// The tool of a name.
pub fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// Carry out a call.
///
/// # Errors
/// What the agent should know and do.
pub async fn call(tool: &Tool, arguments: Option<JsonObject>, call: Call) -> Result<CallToolResult> {
    let schema = &tool.input_schema;
    match &*tool.name {
        "generate" => generate(schema::read(arguments, schema)?, &call).await,
        "edit" => edit(schema::read(arguments, schema)?, &call).await,
        "upscale" => upscale(schema::read(arguments, schema)?, call).await,
        "list_models" => {
            schema::read::<NoInput>(arguments, schema)?;
            call.blocking(|call| Ok(success(&ModelsRecord::new(&*call.desk, call.album.root().map(Root::path))))).await
        }
        "plan" => plan(schema::read(arguments, schema)?, &call).await,
        "job_status" => status(schema::read(arguments, schema)?, &call).await,
        "cancel" => cancel(schema::read(arguments, schema)?, &call).await,
        other => Err(ToolError(format!("a bug: the tool {other} does nothing"))),
    }
}

fn success(record: &impl Serialize) -> CallToolResult {
    CallToolResult::success(vec![text(record)])
}

async fn generate(input: GenerateInput, call: &Call) -> Result<CallToolResult> {
    let GenerateInput { prompt, drawing, delivery } = input;
    let draft = draft::of(prompt.unwrap_or_default(), drawing);
    drawing::draw(call, delivery, move |_| Ok((draft, None))).await
}

async fn edit(input: EditInput, call: &Call) -> Result<CallToolResult> {
    let EditInput { prompt, references, drawing, delivery } = input;
    let draft = draft::of(prompt.unwrap_or_default(), drawing);
    let drafted = move |call: &Call| {
        let drafted = draft::with_images(draft, references, &*call.desk, &call.album)?;
        match drafted.draft.references.is_empty() && drafted.draft.source.is_none() {
            false => Ok((drafted.draft, drafted.parent)),
            true => {
                let hint = "name one in references, as in [\"$-1\"] for the latest one, or in source";
                Err(ToolError::new("there is no picture to edit", hint))
            }
        }
    };
    drawing::draw(call, delivery, drafted).await
}

async fn plan(input: PlanInput, call: &Call) -> Result<CallToolResult> {
    let PlanInput { prompt, references, drawing } = input;
    let draft = draft::of(prompt.unwrap_or_default(), drawing);
    call.blocking(move |call| {
        let draft = draft::with_images(draft, references, &*call.desk, &call.album)?.draft;
        Ok(success(&PlanRecord::from(call.desk.forecast(draft)?)))
    })
    .await
}

/// Enlarges a picture, until the client does not want it any more.
async fn upscale(input: UpscaleInput, call: Call) -> Result<CallToolResult> {
    let cancel = CancelToken::new();
    let (token, mut progress) = (cancel.clone(), call.progress());
    let mut work = pin!(call.blocking(move |call| enlarge(input, call, &token)));
    loop {
        tokio::select! {
            biased;
            () = call.context.ct.cancelled() => {
                cancel.cancel();
                return work.await;
            }
            result = &mut work => return result,
            () = tokio::time::sleep(QUIET) => progress.tell(0.0, 1.0, "enlarging".into()).await,
        }
    }
}

fn enlarge(input: UpscaleInput, call: &Call, cancel: &CancelToken) -> Result<CallToolResult> {
    let UpscaleInput { image, upscale: by, upscaler, format, name, output, show } = input;
    let limits = call.desk.limits();
    let wanted = Wanted { name, output, parent: None };
    call.album.check(&wanted, format.map(Into::into))?;
    let named = picture::find(&image.unwrap_or_default(), "image", &call.album, limits.image_bytes)?;
    let format = match &wanted.output {
        Some(output) => ImageFormat::from_path(output.as_ref())?,
        None => format.map_or(ImageFormat::Png, Into::into),
    };
    let by = by.unwrap_or(2.0);
    let before = Before::read(&named.bytes, "image")?;
    let upscaler = upscaler.as_deref();
    let Enlarged { file, width, height, made } = call.desk.enlarge(&before, upscaler, by, format, cancel)?;
    cancel.check().map_err(flux2::Error::from)?;
    let made = made.as_ref().map(Made::from).unwrap_or_default();
    let prompt = named.prompt.unwrap_or(made.prompt.clone());
    let made = Made { prompt, width, height, ..made };
    let kept = call.album.add(&file, format, &Wanted { parent: named.number, ..wanted }, made.clone())?;
    let lost = before.marks_not_kept(true).into_iter();
    let lost = lost.map(|mark| format!("the picture carries {mark}, and the enlarged one does not"));
    let mut record = PictureRecord {
        reference: Some(format!("${}", kept.number)),
        name: kept.name.map(|name| format!("${name}")),
        path: call.album.root().zip(kept.file.as_ref()).map(|(r, f)| r.path().join(f).display().to_string()),
        file: kept.file,
        seed: made.seed,
        width,
        height,
        warnings: lost.collect(),
        ..PictureRecord::default()
    };
    let mut blocks = Vec::new();
    if show.unwrap_or(true) {
        let shown = content::show(&file, format, 1)?;
        record.shown = Some(shown.note);
        blocks.push(shown.block);
    }
    blocks.insert(0, text(&record));
    Ok(CallToolResult::success(blocks))
}

async fn status(input: StatusInput, call: &Call) -> Result<CallToolResult> {
    let StatusInput { id, wait_seconds, show } = input;
    match id {
        Some(id) => drawing::status(call, parse(&id)?, wait_seconds.unwrap_or(0), show.unwrap_or(true)).await,
        None => call.blocking(|call| Ok(success(&lists(call)))).await,
    }
}

/// The latest jobs and pictures.
#[derive(Serialize)]
struct Lists {
    jobs: Vec<JobRecord>,
    history: Vec<PictureRecord>,
}

fn lists(call: &Call) -> Lists {
    let filter = Filter { owner: Some(call.desk.owner().to_owned()), ..Filter::default() };
    let jobs = call.desk.jobs().list(&filter, None, LISTED).jobs;
    let root = call.album.root().map(Root::path);
    let job = |job| {
        let kept = call.album.take_in(call.desk.jobs(), job).unwrap_or_default();
        JobRecord::new(job, &kept, &*call.desk, root)
    };
    let entries = call.album.latest(LISTED);
    let picture = |entry| PictureRecord::of_entry(entry, call.album.file_of(entry));
    Lists { jobs: jobs.iter().map(job).collect(), history: entries.iter().map(picture).collect() }
}

async fn cancel(input: CancelInput, call: &Call) -> Result<CallToolResult> {
    let id = parse(&input.id.unwrap_or_default())?;
    call.blocking(move |call| {
        drawing::job_of(call, id)?;
        let outcome = match call.desk.jobs().cancel(id) {
            Some(CancelOutcome::Cancelled) => "it was waiting and is cancelled",
            Some(CancelOutcome::Requested) => "it is running and ends within a block of a network",
            Some(CancelOutcome::AlreadyOver) => "it was over before; nothing changed",
            None => return Err(ToolError(format!("there is no job {id} any more"))),
        };
        let state = call.desk.jobs().get(id).map(|job| job.state.name());
        Ok(success(&serde_json::json!({ "id": id.to_string(), "state": state, "outcome": outcome })))
    })
    .await
}

fn parse(id: &str) -> Result<JobId> {
    let shown: String = id.chars().take(60).collect();
    id.parse().map_err(|error| ToolError(format!("{shown:?} is no job: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_says_what_it_takes_and_gives_an_example() {
        for tool in TOOLS.iter() {
            let about = tool.description.as_deref().unwrap();
            assert!((80..900).contains(&about.len()), "{}: {} characters", tool.name, about.len());
            if let Some((_, example)) = about.split_once("Example: ") {
                let example: JsonObject = serde_json::from_str(example).unwrap();
                let properties = tool.input_schema["properties"].as_object().unwrap();
                assert!(example.keys().all(|key| properties.contains_key(key)), "{}: {example:?}", tool.name);
            } else {
                assert!(tool.input_schema["properties"].as_object().unwrap().is_empty(), "{}", tool.name);
            }
        }
    }
}
