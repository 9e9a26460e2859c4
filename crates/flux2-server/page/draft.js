// The request that is being written, and how it becomes that of a job.

import { call } from "./api.js";
import { later } from "./dom.js";
import { server } from "./server.js";
import { Store } from "./store.js";

/**
 * @typedef {{sha256: string, name: string, width: number | null, height: number | null}} DraftReference
 * @typedef {{left: number, top: number, right: number, bottom: number}} Sides
 */

/** Nothing chosen: everything is left to the model. */
export const EMPTY = {
    prompt: "",
    model: "",
    precision: "",
    loras: /** @type {{name: string, scale: number}[]} */ ([]),
    references: /** @type {DraftReference[]} */ ([]),
    /** A ratio as in `3:2`, `reference`, or `free`. */
    aspect: "1:1",
    /** Side of the square with as many pixels; 0 is the model's. */
    side: 0,
    width: 0,
    height: 0,
    steps: 0,
    guidance: /** @type {number | null} */ (null),
    seed: "",
    isSeedLocked: false,
    count: 1,
    format: "png",
    wildcards: true,
    source: /** @type {DraftReference | null} */ (null),
    mask: "",
    outpaint: /** @type {Sides | null} */ (null),
    strength: 1,
    feather: 8,
    upscale: 0,
    /** Fields of a request that the form has no place for, as a picture that is drawn once more had them. */
    others: /** @type {Record<string, unknown>} */ ({}),
    /** The same about the source. */
    painting: /** @type {Record<string, unknown>} */ ({}),
};

/** @typedef {typeof EMPTY} Draft */

/** The request that is being written. Each tab writes its own; a new tab begins with the last one. */
export const draft = new Store("draft", EMPTY, false);

/** Aspect ratios that are offered. */
export const RATIOS = ["1:1", "4:5", "3:4", "2:3", "9:16", "5:4", "4:3", "3:2", "16:9", "21:9"];

/**
 * Shortest and longest side of a square that suits a model.
 * @param {Model | undefined} model
 * @returns {[number, number]}
 */
export function range(model) {
    const { min_px, max_px, max_pixels } = server.limits;
    const most = Math.min(max_px, Math.floor(Math.sqrt(max_pixels)));
    const [least, largest] = model?.trained_px ?? [256, 2048];
    return [Math.max(min_px, least), Math.min(most, largest)];
}

/**
 * Width and height of a draft; `null` leaves them to the server.
 * @param {Draft} value
 * @returns {[number, number] | null}
 */
export function sizeOf(value) {
    if (value.source) return null;
    if (value.aspect === "free") return value.width && value.height ? [value.width, value.height] : null;
    if (value.aspect === "reference" && value.references.length > 0) return null;
    const model = server.model(value.model);
    const [least, most] = range(model);
    const side = Math.min(Math.max(value.side || model?.default_px || 1024, least), most);
    const [w, h] = (RATIOS.includes(value.aspect) ? value.aspect : "1:1").split(":").map(Number);
    return onGrid(side * Math.sqrt(w / h), side * Math.sqrt(h / w));
}

/** The next size that is allowed. @param {number} width @param {number} height @returns {[number, number]} */
export function onGrid(width, height) {
    const { grid_px: grid, min_px, max_px, max_pixels } = server.limits;
    const round = (/** @type {number} */ px) => Math.min(Math.max(Math.round(px / grid) * grid, min_px), max_px);
    const sides = /** @type {[number, number]} */ ([round(width), round(height)]);
    while (sides[0] * sides[1] > max_pixels) sides[sides[0] >= sides[1] ? 0 : 1] -= grid;
    return sides;
}

/**
 * The request of a job. What is not chosen is left out, so that the model chooses.
 * @param {Draft} value
 * @returns {Record<string, unknown>}
 */
export function requestOf(value) {
    const model = server.model(value.model);
    const size = sizeOf(value);
    /** @type {Record<string, unknown>} */
    const request = { prompt: value.prompt, model: model?.name, count: value.count, format: value.format };
    if (size) [request.width, request.height] = size;
    if (value.precision) request.precision = value.precision;
    if (value.loras.length > 0) request.loras = value.loras;
    if (value.references.length > 0) request.references = value.references.map((one) => one.sha256);
    if (value.steps > 0) request.steps = value.steps;
    if (value.guidance !== null && model?.is_distilled === false) request.guidance = value.guidance;
    if (value.isSeedLocked && value.seed !== "") request.seed = value.seed;
    if (value.source) Object.assign(request, sourceOf(value, value.source));
    const { upscaler, ...others } = value.others;
    Object.assign(request, others);
    if (value.upscale > 0 && server.can("upscaling")) Object.assign(request, { upscale: value.upscale, upscaler });
    return request;
}

/** The fields of a picture that is changed in parts. @param {Draft} value @param {DraftReference} source */
function sourceOf(value, source) {
    /** @type {Record<string, unknown>} */
    const fields = { ...value.painting, source: source.sha256 };
    if (value.mask) fields.mask = value.mask;
    if (value.outpaint && Object.values(value.outpaint).some((px) => px > 0)) {
        const { left, top, right, bottom } = value.outpaint;
        fields.outpaint = [left, top, right, bottom];
    }
    if (fields.mask || fields.outpaint || fields.mask_from_alpha) fields.feather = value.feather;
    if (server.can("strength") && value.strength < 1) fields.strength = value.strength;
    return fields;
}

/** What the draft would take. Dispatches `change`. */
class Prediction extends EventTarget {
    /** @type {Forecast | null} */
    value = null;
    /** @type {unknown} */
    problem = null;
    /** @type {AbortController | undefined} */
    #asking;

    constructor() {
        super();
        const ask = later(250, () => void this.#ask());
        draft.addEventListener("change", ask);
        server.addEventListener("change", ask);
    }

    async #ask() {
        this.#asking?.abort();
        const asking = new AbortController();
        this.#asking = asking;
        if (server.state !== "ready") return;
        try {
            const json = requestOf(draft.value);
            this.value = await call("POST", "/api/v1/forecast", { json, signal: asking.signal });
            this.problem = null;
        } catch (error) {
            if (asking.signal.aborted) return;
            this.value = null;
            this.problem = error;
        }
        this.dispatchEvent(new Event("change"));
    }
}

export const prediction = new Prediction();
