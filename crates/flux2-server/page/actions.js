// What people do with the draft and with pictures: draw, again, vary, use, edit, enlarge, delete.

import { ApiError, call } from "./api.js";
import { draft, requestOf, sizeOf } from "./draft.js";
import { file, save, upload } from "./images.js";
import { jobs } from "./jobs.js";
import { notice } from "./panels/notices.js";
import { pictures } from "./pictures.js";
import { server } from "./server.js";
import { remember } from "./store.js";
import { t } from "./text.js";
import { expand, hasWildcards } from "./wildcards.js";

/** Largest random seed and one more: JavaScript's numbers are exact up to 53 bits. */
const SEEDS = 2 ** 53;

/** A seed that nobody chose. */
export function freshSeed() {
    const [high, low] = crypto.getRandomValues(new Uint32Array(2));
    return ((high & 0x1fffff) * 2 ** 32 + low) % SEEDS;
}

/** Submit the draft. With wildcards, every picture is a job with a prompt of its own. */
export async function draw() {
    const value = draft.value;
    const request = requestOf(value);
    if (value.wildcards && hasWildcards(value.prompt)) {
        const first = value.isSeedLocked && value.seed !== "" ? Number(value.seed) : freshSeed();
        for (let index = 0; index < value.count; index += 1) {
            const seed = first + index;
            await jobs.submit({ ...request, prompt: expand(value.prompt, seed), count: 1, seed });
        }
        draft.set({ seed: String(first) });
    } else {
        const job = await jobs.submit(request);
        if (!value.isSeedLocked || value.seed === "") draft.set({ seed: String(job.request.seed) });
    }
    remember(value.prompt);
}

/** The request of a job as it was made. @param {Job} job @returns {Record<string, unknown>} */
function repeated({ request }) {
    const { source, width, height, ...rest } = request;
    // A source gives the size.
    const { sha256, ...painting } = source ?? { sha256: null };
    const fields = { ...rest, ...(sha256 ? { source: sha256, ...painting } : { width, height }) };
    return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

/** Draw the same once more. @param {Job} job */
export function again(job) {
    return attempt(() => jobs.submit(repeated(job)));
}

/** Draw the same with another seed. @param {Job} job */
export function vary(job) {
    return attempt(() => jobs.submit({ ...repeated(job), seed: freshSeed(), count: 1 }));
}

/** Draw a picture of a job once more and enlarge it. @param {Job} job @param {JobImage} image @param {number} factor */
export function enlarge(job, image, factor) {
    return attempt(() => jobs.submit({ ...repeated(job), seed: image.seed, count: 1, upscale: factor }));
}

/** Take the settings of a job into the draft. @param {Job} job @param {JobImage} [image] the one whose seed is used */
export function useSettings({ request }, image) {
    const references = request.references.map((sha256) => ({ sha256, name: t.reference, width: null, height: null }));
    draft.set({
        prompt: request.prompt,
        model: request.model,
        precision: "",
        loras: request.loras.map(({ name, scale }) => ({ name, scale: scale ?? 1 })),
        references,
        aspect: "free",
        width: request.width,
        height: request.height,
        steps: request.steps,
        guidance: request.guidance ?? null,
        seed: String(image?.seed ?? request.seed),
        isSeedLocked: true,
        count: 1,
        format: request.format,
        source: null,
        mask: "",
        outpaint: null,
    });
}

/** Take the seed of a picture. @param {JobImage} image */
export function useSeed(image) {
    draft.set({ seed: String(image.seed), isSeedLocked: true });
    notice(t.seedTaken(String(image.seed)));
}

/**
 * Add images as references.
 * @param {{blob: Blob, name: string}[]} files
 */
export async function addReferences(files) {
    for (const { blob, name } of files) {
        const most = server.limits.max_references;
        if (draft.value.references.length >= most) {
            notice(t.tooManyReferences(most), { isError: true });
            return;
        }
        const { max_image_bytes: bytes } = server.limits;
        if (blob.size > bytes) {
            notice(t.fileTooLarge(name, Math.floor(bytes / (1 << 20))), { isError: true });
            continue;
        }
        try {
            const { sha256, width, height } = await upload(blob);
            const one = { sha256, name, width: width ?? null, height: height ?? null };
            draft.set({ references: [...draft.value.references, one] });
        } catch (error) {
            notice(`${name}: ${sentence(error)}`, { isError: true });
        }
    }
}

/** Use a picture as a reference image. @param {import("./pictures.js").Picture} picture */
export async function useAsReference({ job, image }) {
    await attempt(async () => {
        await addReferences([{ blob: await file(image.url), name: job.request.prompt.slice(0, 40) }]);
        notice(t.referenceAdded);
    });
}

/** Open a picture in the editor of masks. @param {import("./pictures.js").Picture} picture */
export async function edit({ job, image }) {
    await attempt(async () => {
        const { sha256 } = await upload(await file(image.url));
        const name = job.request.prompt.slice(0, 40);
        editSource({ sha256, name, width: image.width, height: image.height });
    });
}

/** @param {import("./draft.js").DraftReference} source */
export function editSource(source) {
    document.dispatchEvent(new CustomEvent("edit-source", { detail: source }));
}

/** Delete pictures; for some seconds that can be taken back. @param {import("./pictures.js").Picture[]} gone */
export function remove(gone) {
    const undo = pictures.remove(gone);
    notice(t.deleted(gone.length), { action: t.undo, onAction: undo });
}

/** @param {import("./pictures.js").Picture} picture */
export function toggleFavorite(picture) {
    return attempt(() => pictures.setFavorite(picture, !picture.image.is_favorite));
}

/** Save a picture in a format. @param {import("./pictures.js").Picture} picture @param {string} format */
export function download({ job, image }, format) {
    return attempt(async () => {
        const path = format === image.format ? image.url : `${image.url}?format=${format}`;
        const words = job.request.prompt
            .toLowerCase()
            .replace(/[^\p{L}\p{N}]+/gu, "-")
            .slice(0, 40);
        save(await file(path), `${words.replace(/^-|-$/g, "") || "picture"}-${image.seed}.${format}`);
    });
}

/** Take the settings out of an image file. @param {File} blob @returns {Promise<boolean>} whether there were any */
export async function restore(blob) {
    /** @type {ImageParameters} */
    let found;
    try {
        found = await call("POST", "/api/v1/parameters", { body: blob });
    } catch (error) {
        if (error instanceof ApiError && error.status === 404) return false;
        throw error;
    }
    const isServed = server.capabilities?.models.some((model) => model.name === found.model);
    const isSized = found.width && found.height;
    draft.set({
        prompt: found.prompt ?? draft.value.prompt,
        ...(isServed ? { model: found.model ?? "" } : {}),
        ...(isSized ? { aspect: "free", width: found.width ?? 0, height: found.height ?? 0 } : {}),
        ...(found.is_ours && isServed ? { steps: found.steps ?? 0, guidance: found.guidance ?? null } : {}),
        ...(found.seed === null || found.seed === undefined ? {} : { seed: String(found.seed), isSeedLocked: true }),
    });
    notice(found.is_ours && isServed ? t.restored : t.restoredPartly(found.program));
    return true;
}

/** A smaller size, for too little memory. @param {Job} job */
export function useSmaller(job) {
    useSettings(job);
    const [width, height] = sizeOf(draft.value) ?? [job.request.width, job.request.height];
    const half = (/** @type {number} */ px) => Math.max(Math.round(px / 32) * 16, server.limits.min_px);
    draft.set({ width: half(width), height: half(height) });
}

/**
 * Do something that may fail, and say why.
 * @param {() => Promise<unknown>} work
 */
export async function attempt(work) {
    try {
        await work();
    } catch (error) {
        notice(sentence(error), { isError: true });
    }
}

/** An error in words: what happened and what to do. @param {unknown} error */
export function sentence(error) {
    if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
    if (error.status === 0) return t.offline;
    const known = /** @type {Record<string, string>} */ (t.errors)[error.code];
    const what = known ?? `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}.`;
    return error.hint ? `${what} ${error.hint.charAt(0).toUpperCase()}${error.hint.slice(1)}.` : what;
}
