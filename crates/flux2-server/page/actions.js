// What people do with the draft and with pictures: draw, again, vary, use, edit, enlarge, delete.

import { ApiError, call } from "./api.js";
import { draft, requestOf, sizeOf } from "./draft.js";
import { decoded, file, painted, png, save, upload, wholeUpload } from "./images.js";
import { jobs } from "./jobs.js";
import { notice } from "./panels/notices.js";
import { pictures } from "./pictures.js";
import { draftOf } from "./record.js";
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

/**
 * Take the settings of a job into the draft.
 * @param {Job} job
 * @param {JobImage} [image] the one whose seed is used
 */
export function useSettings({ request }, image) {
    return attempt(() => take(image ? { ...request, seed: image.seed, count: 1 } : request, true));
}

/** Take what is recorded of a picture into the draft. @param {Recorded} record @param {boolean} isOurs */
async function take(record, isOurs) {
    const { draft: found, lost } = await draftOf(record, isOurs);
    draft.set(found);
    for (const text of lost) notice(text, { isError: true });
    return lost.length === 0;
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

/** Delete pictures; for a while that can be taken back. @param {import("./pictures.js").Picture[]} gone */
export function remove(gone) {
    return attempt(async () => {
        await pictures.remove(gone);
        const undo = () => void attempt(() => pictures.restore(gone));
        notice(t.deleted(gone.length), { action: t.undo, onAction: undo });
    });
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
    const format = /** @type {Recorded["format"]} */ (blob.type.replace("image/", ""));
    const isAll = await take({ ...found, format }, found.is_ours);
    if (isAll) notice(found.is_ours && isServed ? t.restored : t.restoredPartly(found.program));
    return true;
}

/** A smaller size, for too little memory. A picture that is changed in parts becomes smaller, and its mask too. */
export function useSmaller(/** @type {Job} */ job) {
    return attempt(async () => {
        await take(job.request, true);
        const { source, mask, outpaint } = draft.value;
        const half = (/** @type {number} */ px) => Math.max(Math.round(px / 32) * 16, server.limits.min_px);
        if (!source) {
            const [width, height] = sizeOf(draft.value) ?? [job.request.width, job.request.height];
            draft.set({ width: half(width), height: half(height) });
            return;
        }
        const [width, height] = [half(source.width ?? 0), half(source.height ?? 0)];
        const smaller = async (/** @type {string} */ sha256) => {
            const image = await decoded(wholeUpload(sha256));
            const canvas = painted(width, height, (context) => context.drawImage(image, 0, 0, width, height));
            return (await upload(await png(canvas))).sha256;
        };
        const side = (/** @type {number} */ px) => Math.round(px / 32) * 16;
        draft.set({
            source: { ...source, sha256: await smaller(source.sha256), width, height },
            mask: mask && (await smaller(mask)),
            outpaint: outpaint && {
                left: side(outpaint.left),
                top: side(outpaint.top),
                right: side(outpaint.right),
                bottom: side(outpaint.bottom),
            },
        });
    });
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
    // What only the server knows, as a value, it says itself.
    const { complete, beside } = /** @type {Record<"complete" | "beside", Record<string, string>>} */ (t.errors);
    if (complete[error.code]) return complete[error.code];
    const own = [error.message, error.hint].filter(Boolean).map(asSentence).join(" ");
    return [beside[error.code], t.serverSays(own)].filter(Boolean).join(" ");
}

/** @param {string} text */
function asSentence(text) {
    return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
