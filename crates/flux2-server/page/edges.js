// Handles on the edges of a picture: dragging one outwards extends the canvas on its side.

import { h } from "./dom.js";

/** @typedef {"left" | "top" | "right" | "bottom"} Side */

/** @type {Side[]} */
export const SIDES = ["left", "top", "right", "bottom"];

/** Most pixels that a side can be extended by. */
export const MOST = 2048;

/**
 * The handles. Screen readers skip them: there are fields for the same.
 * @param {() => number} scale pixels of the screen for a pixel of the picture
 * @param {(side: Side) => number} now
 * @param {(side: Side, px: number) => void} change
 */
export function edges(scale, now, change) {
    return SIDES.map((side) => {
        const isAcross = side === "left" || side === "right";
        const outwards = side === "left" || side === "top" ? -1 : 1;
        const handle = h("div", { class: `edge ${side}`, "aria-hidden": "true" });
        handle.addEventListener("pointerdown", (start) => {
            // The press is no stroke of the brush.
            start.stopPropagation();
            handle.setPointerCapture(start.pointerId);
            const [from, px] = [now(side), scale()];
            const move = (/** @type {PointerEvent} */ event) => {
                const way = isAcross ? event.clientX - start.clientX : event.clientY - start.clientY;
                change(side, Math.min(Math.max(0, from + (outwards * way) / px), MOST));
            };
            handle.addEventListener("pointermove", move);
            handle.addEventListener("pointerup", () => handle.removeEventListener("pointermove", move), { once: true });
        });
        return handle;
    });
}
