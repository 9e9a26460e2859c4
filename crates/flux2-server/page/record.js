// From what is recorded of a picture to the draft: all settings that the record has, and no others.

import { ApiError, call } from "./api.js";
import { EMPTY } from "./draft.js";
import { decoded, wholeUpload } from "./images.js";
import { server } from "./server.js";
import { t } from "./text.js";
import { hasWildcards } from "./wildcards.js";

/**
 * @typedef {import("./draft.js").Draft} Draft
 * @typedef {import("./draft.js").Sides} Sides
 */

/**
 * The draft that draws a picture once more.
 * @param {Recorded} record
 * @param {boolean} isOurs whether its steps and the like mean the same here
 * @returns {Promise<{draft: Partial<Draft>, lost: string[]}>} `lost` says what this server does not have
 */
export async function draftOf(record, isOurs) {
    const loras = server.capabilities?.loras ?? [];
    const upscalers = server.capabilities?.upscalers ?? [];
    const model = server.capabilities?.models.find((one) => one.name === record.model);
    const isSame = isOurs && model !== undefined;
    /** @type {string[]} */
    const lost = [];
    const wanted = record.loras ?? [];
    const unknown = wanted.filter(({ name }) => !loras.includes(name)).map(({ name }) => name);
    if (unknown.length > 0) lost.push(t.lostLoras(unknown.join(", ")));
    const references = await kept(record.references ?? []);
    const source = record.source ? await sourceOf(record.source) : NO_SOURCE;
    const images = (record.references ?? []).length - references.length + source.lost;
    if (images > 0) lost.push(t.lostImages(images));
    const isSized = record.width && record.height && !source.draft.source;
    const { upscale, upscaler, noise, metadata, watermark } = record;
    /** @type {[string, unknown, boolean][]} */
    const others = [
        ["noise", noise, isOurs && !!noise && noise !== server.capabilities?.noise[0]],
        ["upscaler", upscaler, !!upscale && upscaler !== upscalers[0]?.name && isServed(upscalers, upscaler)],
        ["metadata", metadata, metadata === false],
        ["watermark", watermark, watermark === true],
    ];
    const draft = {
        ...EMPTY,
        ...source.draft,
        ...(record.prompt ? { prompt: record.prompt, wildcards: !hasWildcards(record.prompt) } : {}),
        ...(model ? { model: model.name } : {}),
        precision: (isSame && record.precision) || "",
        loras: wanted
            .filter(({ name }) => loras.includes(name))
            .map(({ name, scale }) => ({ name, scale: scale ?? 1 })),
        references: references.map((sha256) => ({ sha256, name: t.reference, width: null, height: null })),
        ...(isSized ? { aspect: "free", width: record.width ?? 0, height: record.height ?? 0 } : {}),
        steps: (isSame && record.steps) || 0,
        guidance: isSame ? (record.guidance ?? null) : null,
        ...(typeof record.seed === "undefined" || record.seed === null
            ? {}
            : { seed: String(record.seed), isSeedLocked: true }),
        count: record.count ?? 1,
        format: record.format ?? "png",
        upscale: upscale ?? 0,
        others: given(others),
    };
    // A text that is being written is no setting.
    const { prompt, wildcards, ...rest } = draft;
    return { draft: record.prompt ? draft : rest, lost };
}

/** @param {{name: string}[]} upscalers @param {string | null | undefined} name */
function isServed(upscalers, name) {
    return upscalers.some((one) => one.name === name);
}

/** An object of the fields that are to be sent. @param {[string, unknown, boolean][]} fields */
function given(fields) {
    return Object.fromEntries(fields.filter(([, , is]) => is).map(([name, value]) => [name, value]));
}

/** Those uploads that the server still has. @param {string[]} digests @returns {Promise<string[]>} */
async function kept(digests) {
    const is = await Promise.all(digests.map(isKept));
    return digests.filter((_, at) => is[at]);
}

/** @param {string} sha256 @returns {Promise<boolean>} */
async function isKept(sha256) {
    try {
        await call("GET", `/api/v1/uploads/${sha256}`);
        return true;
    } catch (error) {
        if (error instanceof ApiError && error.status === 404) return false;
        throw error;
    }
}

/** @type {{draft: Partial<Draft>, lost: number}} */
const NO_SOURCE = { draft: {}, lost: 0 };

/**
 * The picture that was painted into. Without its file or the mask's nothing of it can be used.
 * @param {NonNullable<Recorded["source"]>} source
 * @returns {Promise<{draft: Partial<Draft>, lost: number}>} the draft, and the number of files that are not there
 */
async function sourceOf(source) {
    const { sha256, mask, mask_from_alpha, mask_invert, mask_grow, outpaint_fill, source_reference } = source;
    const files = mask ? [sha256, mask] : [sha256];
    const lost = files.length - (await kept(files)).length;
    if (lost > 0) return { draft: {}, lost };
    const { naturalWidth: width, naturalHeight: height } = await decoded(wholeUpload(sha256));
    const painting = given([
        ["mask_from_alpha", true, mask_from_alpha],
        ["mask_invert", true, mask_invert],
        ["mask_grow", mask_grow, mask_grow > 0],
        ["outpaint_fill", outpaint_fill, outpaint_fill !== "edge"],
        ["source_reference", false, !source_reference],
    ]);
    const draft = {
        source: { sha256, name: t.source, width, height },
        mask: mask ?? "",
        outpaint: source.outpaint ? sidesOf(source.outpaint, width, height) : null,
        strength: source.strength,
        feather: source.feather ?? EMPTY.feather,
        painting,
    };
    return { draft, lost: 0 };
}

/**
 * Pixels at the sides of a picture: the server's texts are pixels, or percent of the side that grows.
 * @param {string[]} texts
 * @param {number} width
 * @param {number} height
 * @returns {Sides}
 */
export function sidesOf(texts, width, height) {
    const [left, top, right, bottom] = texts.map((text, at) =>
        text.endsWith("%") ? Math.round(((at % 2 ? height : width) * parseFloat(text)) / 100) : Number(text),
    );
    return { left, top, right, bottom };
}
