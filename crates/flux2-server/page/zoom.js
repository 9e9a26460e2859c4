// Zoom and pan of what is in a frame: mouse, wheel, touch, keys and buttons.

import { button, h } from "./dom.js";
import { t } from "./text.js";

/** Largest factor. */
const MOST = 32;
/** Pixels that an arrow key moves. */
const STEP = 60;

/** Zoom and pan of an element within its parent. */
export class Zoom {
    #frame;
    #content;
    scale = 1;
    x = 0;
    y = 0;
    /** @type {Map<number, PointerEvent>} */
    #pointers = new Map();
    #onChange;

    /**
     * @param {HTMLElement} frame takes the pointer
     * @param {HTMLElement} content is moved
     * @param {(event: MouseEvent) => boolean} [mayPan] whether a press moves the content
     * @param {() => void} [onChange]
     */
    constructor(frame, content, mayPan = () => true, onChange = () => {}) {
        this.#frame = frame;
        this.#content = content;
        this.#onChange = onChange;
        frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
        frame.addEventListener("pointerdown", (event) => {
            if (this.#pointers.size > 0 || mayPan(event)) this.adopt(event);
        });
        frame.addEventListener("pointermove", (event) => this.#move(event));
        for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
            frame.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
        }
        frame.addEventListener("dblclick", (event) => {
            if (!mayPan(event)) return;
            if (this.scale > 1) this.fit();
            else this.by(4, ...this.#fromMiddle(event));
        });
    }

    /** Follow a pointer that is down. @param {PointerEvent} event */
    adopt(event) {
        this.#pointers.set(event.pointerId, event);
        this.#frame.setPointerCapture(event.pointerId);
    }

    /** Show all. */
    fit() {
        [this.scale, this.x, this.y] = [1, 0, 0];
        this.#show();
    }

    /**
     * Make larger or smaller around a point.
     * @param {number} factor
     * @param {number} [px] from the middle of the frame
     * @param {number} [py]
     */
    by(factor, px = 0, py = 0) {
        const scale = Math.min(Math.max(this.scale * factor, 1), MOST);
        const change = scale / this.scale;
        this.x = px - (px - this.x) * change;
        this.y = py - (py - this.y) * change;
        this.scale = scale;
        this.#show();
    }

    /** Keys: plus, minus, 0, and arrows while something is outside. @param {KeyboardEvent} event */
    key(event) {
        const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
        const move = /** @type {Record<string, number[]>} */ (moves)[event.key];
        if (event.key === "+" || event.key === "=") this.by(1.5);
        else if (event.key === "-") this.by(1 / 1.5);
        else if (event.key === "0") this.fit();
        else if (move && this.scale > 1) this.pan(move[0], move[1]);
        else return false;
        event.preventDefault();
        return true;
    }

    /** @param {WheelEvent} event */
    #wheel(event) {
        event.preventDefault();
        const [x, y] = this.#fromMiddle(event);
        this.by(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), x, y);
    }

    /** @param {{clientX: number, clientY: number}} event @returns {[number, number]} */
    #fromMiddle(event) {
        const box = this.#frame.getBoundingClientRect();
        return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    }

    /** @param {PointerEvent} event */
    #move(event) {
        const before = this.#pointers.get(event.pointerId);
        if (!before) return;
        const other = [...this.#pointers.values()].find((one) => one.pointerId !== event.pointerId);
        if (other) {
            const distance = (/** @type {PointerEvent} */ one) =>
                Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
            const middle = {
                clientX: (event.clientX + other.clientX) / 2,
                clientY: (event.clientY + other.clientY) / 2,
            };
            // The middle of both fingers moves half as far as one of them.
            this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
            this.by(distance(event) / Math.max(distance(before), 1), ...this.#fromMiddle(middle));
        } else {
            this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
        }
        this.#pointers.set(event.pointerId, event);
    }

    /** Buttons for the same. */
    tools() {
        return h(
            "div",
            { class: "zoom-tools" },
            button("zoomOut", t.zoomOut, () => this.by(1 / 1.5)),
            button("fit", t.fit, () => this.fit()),
            button("zoomIn", t.zoomIn, () => this.by(1.5)),
        );
    }

    /** Move what is shown. @param {number} dx @param {number} dy */
    pan(dx, dy) {
        this.x += dx;
        this.y += dy;
        this.#show();
    }

    #show() {
        const { clientWidth: w, clientHeight: h } = this.#frame;
        const [mostX, mostY] = [(w * (this.scale - 1)) / 2, (h * (this.scale - 1)) / 2];
        this.x = Math.min(Math.max(this.x, -mostX), mostX);
        this.y = Math.min(Math.max(this.y, -mostY), mostY);
        this.#content.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
        this.#content.classList.toggle("pixelated", this.scale > 4);
        this.#onChange();
    }
}
