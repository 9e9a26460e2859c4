// What a picture can be compared with.

import { address, decoded, painted, wholeUpload } from "./images.js";
import { pictures } from "./pictures.js";
import { sidesOf } from "./record.js";
import { t } from "./text.js";

/** Most pictures of the gallery that are offered. */
const MOST = 50;

/**
 * An image beside a picture.
 * @typedef {object} Choice
 * @property {string} name
 * @property {() => Promise<string>} address what `src` leads to it
 */

/**
 * The source of a picture, its references, and the pictures of the gallery with its shape.
 * @param {import("./pictures.js").Picture} picture
 * @returns {Choice[]}
 */
export function comparable({ id, job, image }) {
    const { source, references } = job.request;
    const first = source ? [{ name: t.source, address: () => placed(job.request) }] : [];
    const others = references.map((sha256, at) => ({
        name: t.referenceNumber(at + 1),
        address: () => address(wholeUpload(sha256)),
    }));
    const ratio = image.width / image.height;
    const same = pictures.list.filter((one) => one.id !== id && one.image.width / one.image.height === ratio);
    const drawn = same.slice(0, MOST).map((one) => ({
        name: `${one.image.seed} · ${one.job.request.prompt.slice(0, 40)}`,
        address: () => address(one.image.url),
    }));
    return [...first, ...others, ...drawn];
}

/** The source where it lies on the canvas. @param {Job["request"]} request */
async function placed({ source, width, height }) {
    if (!source) return "";
    const path = wholeUpload(source.sha256);
    if (!source.outpaint) return address(path);
    const image = await decoded(path);
    const { left, top } = sidesOf(source.outpaint, image.naturalWidth, image.naturalHeight);
    return painted(width, height, (context) => context.drawImage(image, left, top)).toDataURL();
}
