// A contact sheet: several pictures on one, with their seeds.

import { decoded, png, save } from "./images.js";
import { t } from "./text.js";

/** Longest side of a picture on the sheet, the space around it and the height of its text, in pixels. */
const PICTURE = 512;
const SPACE = 24;
const TEXT = 40;
/** Most pictures of a sheet: a canvas of a browser has at most 16384 pixels a side. */
const MOST = 400;

/** Make a sheet and save it. @param {import("./pictures.js").Picture[]} chosen */
export async function contactSheet(chosen) {
    const shown = chosen.slice(0, MOST);
    const columns = Math.ceil(Math.sqrt(shown.length));
    const rows = Math.ceil(shown.length / columns);
    const [cell, height] = [PICTURE + SPACE, PICTURE + SPACE + TEXT];
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [columns * cell + SPACE, rows * height + SPACE];
    const context = canvas.getContext("2d");
    if (!context) throw new Error(t.canvasTooLarge);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const [index, { job, image }] of shown.entries()) {
        const px = `${image.thumbnail}?px=1024`;
        const picture = await decoded(px);
        const scale = Math.min(PICTURE / picture.naturalWidth, PICTURE / picture.naturalHeight);
        const [w, h] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
        const [x, y] = [SPACE + (index % columns) * cell, SPACE + Math.floor(index / columns) * height];
        context.drawImage(picture, x + (PICTURE - w) / 2, y + (PICTURE - h) / 2, w, h);
        context.fillStyle = "#222";
        context.font = "20px system-ui, sans-serif";
        context.fillText(`${image.seed} · ${job.request.prompt}`, x, y + PICTURE + 26, PICTURE);
        context.fillStyle = "#fff";
    }
    save(await png(canvas), "contact-sheet.png");
}
