// Requests to the native API, with the key in a header and never in an address.

import { settings } from "./store.js";

/** Dispatches `locked` when a key is needed, and `offline` and `online`. */
export const connection = new EventTarget();
let isOnline = true;

/** An answer that is not what was asked for. */
export class ApiError extends Error {
    /**
     * @param {number} status 0 if the server did not answer
     * @param {{message?: string, hint?: string, code?: string, param?: string | null}} error
     * @param {number} retryAfter seconds
     */
    constructor(status, error, retryAfter = 0) {
        super(error.message ?? `status ${status}`);
        this.status = status;
        this.code = error.code ?? "";
        this.hint = error.hint ?? "";
        this.param = error.param ?? "";
        this.retryAfter = retryAfter;
    }
}

/** @param {boolean} is */
function setOnline(is) {
    if (is === isOnline) return;
    isOnline = is;
    connection.dispatchEvent(new Event(is ? "online" : "offline"));
}

/**
 * Send a request and wait for the head of its answer.
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, body?: Blob, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 * @throws {ApiError}
 */
export async function send(method, path, { json, body, headers = {}, signal } = {}) {
    const all = new Headers({ "x-requested-with": "page", ...headers });
    if (settings.value.key) all.set("authorization", `Bearer ${settings.value.key}`);
    if (json !== undefined) all.set("content-type", "application/json");
    if (body) all.set("content-type", body.type || "application/octet-stream");
    /** @type {Response} */
    let response;
    try {
        response = await fetch(path, { method, headers: all, signal, body: json === undefined ? body : text(json) });
    } catch (error) {
        if (signal?.aborted) throw error;
        setOnline(false);
        throw new ApiError(0, { code: "offline", message: String(error) });
    }
    setOnline(true);
    if (response.ok) return response;
    const content = parse(await response.text().catch(() => ""));
    if (response.status === 401) connection.dispatchEvent(new Event("locked"));
    throw new ApiError(response.status, content?.error ?? {}, Number(response.headers.get("retry-after") ?? 0));
}

/**
 * Send a request and read the JSON of its answer.
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, body?: Blob, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, options) {
    const response = await send(method, path, options);
    return response.status === 204 ? null : parse(await response.text());
}

/**
 * JSON whose seeds keep all digits: those that JavaScript's numbers cannot hold stay texts.
 * @param {string} json
 * @returns {any}
 */
function parse(json) {
    /** @type {any} */
    const exact = (/** @type {string} */ key, /** @type {any} */ value, /** @type {any} */ context) =>
        key === "seed" && typeof value === "number" && !Number.isSafeInteger(value)
            ? (context?.source ?? value)
            : value;
    try {
        return JSON.parse(json, exact);
    } catch {
        return null;
    }
}

/** @param {unknown} json */
function text(json) {
    return JSON.stringify(json);
}

/**
 * @typedef {{id: number, name: string, data: any}} JobEvent
 */

/**
 * Events of a job after number `after`, until there are no more. `EventSource` cannot send a key.
 * @param {string} path
 * @param {number} after
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<JobEvent>}
 */
export async function* events(path, after, signal) {
    const response = await send("GET", path, { headers: after > 0 ? { "last-event-id": String(after) } : {}, signal });
    if (response.status === 204 || !response.body) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks) {
            const event = parseEvent(block);
            if (event) yield event;
        }
    }
}

/** @param {string} block @returns {JobEvent | null} */
function parseEvent(block) {
    /** @type {Record<string, string>} */
    const fields = {};
    for (const line of block.split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
    }
    return fields.event ? { id: Number(fields.id), name: fields.event, data: parse(fields.data ?? "null") } : null;
}
