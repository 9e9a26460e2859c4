// A mask as strokes: painted, erased, inverted, taken back. Its pixels are those of the picture.

import { painted, png } from "./images.js";
import { t } from "./text.js";

/**
 * @typedef {{kind: "brush" | "eraser", radius: number, points: [number, number][]}} Stroke
 * @typedef {Stroke | {kind: "invert"} | {kind: "clear"} | {kind: "image", image: HTMLCanvasElement}} Mark
 */

/** The color that a mask is shown in. */
const SHOWN = "#2f6bff";

/** A canvas that is opaque where something is to be repainted. */
export class Mask {
    canvas = document.createElement("canvas");
    /** @type {Mark[]} */
    #marks = [];
    /** @type {Mark[]} */
    #undone = [];

    /** @param {number} width @param {number} height */
    constructor(width, height) {
        [this.canvas.width, this.canvas.height] = [width, height];
    }

    get #context() {
        const context = this.canvas.getContext("2d");
        if (!context) throw new Error(t.canvasTooLarge);
        return context;
    }

    get isEmpty() {
        const { width, height } = this.canvas;
        const { data } = this.#context.getImageData(0, 0, width, height);
        for (let at = 3; at < data.length; at += 4) if (data[at] > 0) return false;
        return true;
    }

    get canUndo() {
        return this.#marks.length > 0;
    }

    get canRedo() {
        return this.#undone.length > 0;
    }

    /** @param {Mark} mark */
    add(mark) {
        this.#marks.push(mark);
        this.#undone = [];
        this.#draw(mark);
    }

    /** One more point of the last stroke. @param {[number, number]} point */
    extend(point) {
        const stroke = this.#marks.at(-1);
        if (!stroke || !("points" in stroke)) return;
        stroke.points.push(point);
        this.#draw({ ...stroke, points: stroke.points.slice(-2) });
    }

    undo() {
        const mark = this.#marks.pop();
        if (mark) this.#undone.push(mark);
        this.#redraw();
    }

    redo() {
        const mark = this.#undone.pop();
        if (mark) this.#marks.push(mark);
        this.#redraw();
    }

    #redraw() {
        this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
        for (const mark of this.#marks) this.#draw(mark);
    }

    /** @param {Mark} mark */
    #draw(mark) {
        const context = this.#context;
        const { width, height } = this.canvas;
        context.save();
        context.fillStyle = context.strokeStyle = SHOWN;
        if (mark.kind === "clear") {
            context.clearRect(0, 0, width, height);
        } else if (mark.kind === "image") {
            context.clearRect(0, 0, width, height);
            context.drawImage(mark.image, 0, 0);
        } else if (mark.kind === "invert") {
            // Drawn where there is nothing; what there was is removed.
            context.globalCompositeOperation = "source-out";
            context.fillRect(0, 0, width, height);
        } else {
            context.globalCompositeOperation = mark.kind === "eraser" ? "destination-out" : "source-over";
            context.lineWidth = 2 * mark.radius;
            context.lineCap = context.lineJoin = "round";
            const [[x, y]] = mark.points;
            // A line from a point to itself is not drawn.
            context.beginPath();
            context.arc(x, y, mark.radius, 0, 2 * Math.PI);
            context.fill();
            context.beginPath();
            context.moveTo(x, y);
            for (const [px, py] of mark.points) context.lineTo(px, py);
            context.stroke();
        }
        context.restore();
    }

    /** A PNG that is white where something is to be repainted, and black elsewhere. @returns {Promise<Blob>} */
    file() {
        const { width, height } = this.canvas;
        const canvas = painted(width, height, (context) => {
            context.drawImage(this.canvas, 0, 0);
            context.globalCompositeOperation = "source-in";
            context.fillStyle = "#fff";
            context.fillRect(0, 0, width, height);
            context.globalCompositeOperation = "destination-over";
            context.fillStyle = "#000";
            context.fillRect(0, 0, width, height);
        });
        return png(canvas);
    }
}

/**
 * The file of a mask as a mark, read as the server does: if anything of it is transparent, that is repainted, else what
 * is white.
 * @param {HTMLImageElement} image
 * @param {number} width
 * @param {number} height
 * @returns {Mark}
 */
export function markOf(image, width, height) {
    const canvas = painted(width, height, (context) => {
        context.drawImage(image, 0, 0, width, height);
        const pixels = context.getImageData(0, 0, width, height);
        const { data } = pixels;
        let isTransparent = false;
        for (let at = 3; at < data.length; at += 4) isTransparent ||= data[at] < 255;
        for (let at = 0; at < data.length; at += 4) data[at + 3] = isTransparent ? 255 - data[at + 3] : data[at];
        context.putImageData(pixels, 0, 0);
        context.globalCompositeOperation = "source-in";
        context.fillStyle = SHOWN;
        context.fillRect(0, 0, width, height);
    });
    return { kind: "image", image: canvas };
}
