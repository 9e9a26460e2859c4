// Addresses of images. With a key they are requested here, since an `img` element sends no header.

import { send } from "./api.js";
import { settings } from "./store.js";
import { t } from "./text.js";

/** Images that stay in memory, the least recently used first. */
const MOST = 300;
/** @type {Map<string, Promise<string>>} */
const known = new Map();

/**
 * What `src` of an image element leads to this path of the server.
 * @param {string} path
 * @returns {Promise<string>}
 */
export function address(path) {
    if (!settings.value.key) return Promise.resolve(path);
    const found = known.get(path) ?? send("GET", path).then(async (answer) => URL.createObjectURL(await answer.blob()));
    known.delete(path);
    known.set(path, found);
    found.catch(() => known.delete(path));
    if (known.size > MOST) {
        const [oldest, url] = /** @type {[string, Promise<string>]} */ (known.entries().next().value);
        known.delete(oldest);
        url.then(URL.revokeObjectURL, () => {});
    }
    return found;
}

/**
 * Show an image of the server in an element.
 * @param {HTMLImageElement} element
 * @param {string} path
 */
export function show(element, path) {
    if (element.dataset.path === path) return;
    element.dataset.path = path;
    address(path).then(
        (url) => {
            if (element.dataset.path === path) element.src = url;
        },
        () => element.dispatchEvent(new Event("error")),
    );
}

/** Path of a small version. @param {string} thumbnail @param {number} px the longest side on the screen */
export function small(thumbnail, px) {
    const wanted = px * Math.min(devicePixelRatio, 2);
    return `${thumbnail}?px=${wanted <= 256 ? 256 : wanted <= 512 ? 512 : 1024}`;
}

/** Path of a small version of an upload. @param {string} sha256 */
export function ofUpload(sha256) {
    return `/api/v1/uploads/${sha256}/image?px=256`;
}

/** Path of an upload as it was sent. @param {string} sha256 */
export function wholeUpload(sha256) {
    return `/api/v1/uploads/${sha256}/image`;
}

/** The file itself. @param {string} path @returns {Promise<Blob>} */
export async function file(path) {
    return (await send("GET", path)).blob();
}

/**
 * A decoded image, which canvases can draw.
 * @param {string} path
 * @returns {Promise<HTMLImageElement>}
 */
export async function decoded(path) {
    const element = new Image();
    element.src = await address(path);
    await element.decode();
    return element;
}

/**
 * The content of a canvas as a PNG.
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
export async function png(canvas) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (!(blob instanceof Blob)) throw new Error(t.canvasTooLarge);
    return blob;
}

/**
 * A canvas with something drawn on it.
 * @param {number} width
 * @param {number} height
 * @param {(context: CanvasRenderingContext2D) => void} paint
 */
export function painted(width, height, paint) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error(t.canvasTooLarge);
    paint(context);
    return canvas;
}

/** Save bytes as a file of the user. @param {Blob} blob @param {string} name */
export function save(blob, name) {
    const url = URL.createObjectURL(blob);
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * Send a file to the server as a reference image.
 * @param {Blob} blob
 * @returns {Promise<Upload>}
 */
export async function upload(blob) {
    const answer = await send("POST", "/api/v1/uploads", { body: blob });
    return answer.json();
}
