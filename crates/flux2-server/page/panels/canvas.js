// The editor of masks: paint what changes, extend the canvas. Mouse, pen, touch and keys.

import { attempt } from "../actions.js";
import { draft } from "../draft.js";
import { button, field, fill, h, Panel } from "../dom.js";
import { edges, MOST, SIDES } from "../edges.js";
import { decoded, upload, wholeUpload } from "../images.js";
import { markOf, Mask } from "../mask.js";
import { server } from "../server.js";
import { t } from "../text.js";
import { Zoom } from "../zoom.js";

/** @typedef {import("../edges.js").Side} Side */
/** @typedef {"brush" | "eraser" | "hand"} Tool */

/** Keys of the tools. @type {Record<string, Tool>} */
const TOOLS = { b: "brush", e: "eraser", h: "hand" };
/** Pixels of the screen around the canvas, for its handles. */
const HANDLE = 40;
/** Pixels of the screen between the edge and what the keys paint. */
const MARGIN = 32;

class Canvas extends Panel {
    #board = h("div", { class: "board" });
    #cursor = h("div", { class: "cursor", hidden: true });
    #content = h("div", { class: "content" }, this.#board);
    #frame = h("div", { class: "stage", tabindex: 0, role: "application", "aria-label": t.editor }, this.#content);
    #side = h("div", { class: "side" });
    /** @type {HTMLDialogElement} */
    #dialog = h("dialog", { class: "full", "aria-label": t.editor });
    #zoom = new Zoom(
        this.#frame,
        this.#content,
        (event) => event.button === 1 || this.#tool === "hand",
        () => this.#showCursor(),
    );
    /** @type {import("../draft.js").DraftReference | undefined} */
    #source;
    #mask = new Mask(1, 1);
    /** The mask of the draft that is painted here. */
    #used = "";
    /** @type {Tool} */
    #tool = "brush";
    #radius = 24;
    #outpaint = { left: 0, top: 0, right: 0, bottom: 0 };
    /** Where the keys paint, in pixels of the picture. @type {[number, number]} */
    #point = [0, 0];
    /** @type {PointerEvent | undefined} */
    #painting;

    start() {
        const close = button("close", t.close, () => this.#dialog.close(), { class: "button only-icon close" });
        const middle = h("div", { class: "middle" }, this.#frame, this.#zoom.tools());
        this.#dialog.replaceChildren(middle, this.#side, close);
        this.replaceChildren(this.#dialog);
        this.listen(document, "edit-source", ({ detail }) => void attempt(() => this.#open(detail)));
        this.listen(this.#frame, "pointerdown", (event) => this.#press(event));
        this.listen(this.#frame, "pointermove", (event) => this.#move(event));
        this.listen(this.#frame, "pointerup", () => (this.#painting = undefined));
        this.listen(this.#frame, "pointercancel", () => (this.#painting = undefined));
        this.listen(this.#frame, "keydown", (event) => this.#onKey(event));
        this.listen(window, "resize", () => this.#layout());
    }

    /** @param {import("../draft.js").DraftReference} source */
    async #open(source) {
        const { source: drafted, mask } = draft.value;
        const used = drafted?.sha256 === source.sha256 ? mask : "";
        // What was painted stays, with all that can be taken back.
        if (this.#source?.sha256 !== source.sha256 || this.#used !== used) await this.#load(source, used);
        this.#showSide();
        this.#dialog.showModal();
        this.#zoom.fit();
        this.#layout();
        this.#frame.focus({ preventScroll: true });
    }

    /** Begin with a picture, and with the mask and canvas of the draft if it is the draft's. */
    async #load(/** @type {import("../draft.js").DraftReference} */ source, /** @type {string} */ used) {
        const { source: drafted, outpaint, painting } = draft.value;
        const image = await decoded(wholeUpload(source.sha256));
        image.alt = source.name;
        image.draggable = false;
        const [width, height] = [image.naturalWidth, image.naturalHeight];
        const mask = new Mask(width, height);
        if (used) mask.add(markOf(await decoded(wholeUpload(used)), width, height));
        const isDrafted = drafted?.sha256 === source.sha256;
        if (isDrafted && painting.mask_from_alpha) mask.add(markOf(image, width, height));
        if (isDrafted && painting.mask_invert) mask.add({ kind: "invert" });
        this.#source = { ...source, width, height };
        this.#mask = mask;
        this.#used = used;
        this.#outpaint = (isDrafted && outpaint) || { left: 0, top: 0, right: 0, bottom: 0 };
        this.#point = [width / 2, height / 2];
        this.#radius = Math.max(4, Math.round(Math.min(width, height) / 16));
        const paper = h("div", { class: "paper" }, image, mask.canvas);
        const scale = () => mask.canvas.getBoundingClientRect().width / width;
        const extend = (/** @type {Side} */ side, /** @type {number} */ px) => {
            this.#extend(side, px);
            this.#showSide();
        };
        const handles = server.can("outpainting") ? edges(scale, (side) => this.#outpaint[side], extend) : [];
        this.#board.replaceChildren(paper, this.#cursor, ...handles);
    }

    /** The board has the shape of the extended canvas; the picture lies where it will be. */
    #layout() {
        const { width, height } = this.#mask.canvas;
        const { left, top, right, bottom } = this.#outpaint;
        const [w, h_] = [width + left + right, height + top + bottom];
        const room = (/** @type {number} */ px) => px - 2 * HANDLE;
        const scale = Math.min(room(this.#frame.clientWidth) / w, room(this.#frame.clientHeight) / h_);
        Object.assign(this.#board.style, { width: `${w * scale}px`, height: `${h_ * scale}px` });
        const paper = /** @type {HTMLElement | null} */ (this.#board.firstElementChild);
        if (paper) {
            const place = { left: left / w, top: top / h_, width: width / w, height: height / h_ };
            for (const [name, part] of Object.entries(place)) paper.style.setProperty(name, `${100 * part}%`);
        }
        this.#showCursor();
    }

    /** Extend a side, by a multiple of the grid. @param {Side} side @param {number} px */
    #extend(side, px) {
        const { grid_px: grid } = server.limits;
        this.#outpaint = { ...this.#outpaint, [side]: Math.min(Math.max(0, Math.round(px / grid) * grid), MOST) };
        this.#layout();
    }

    /** Pixels of the picture for a point of the window. @param {PointerEvent} event @returns {[number, number]} */
    #at(event) {
        const box = this.#mask.canvas.getBoundingClientRect();
        const { width, height } = this.#mask.canvas;
        return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    }

    /** @param {PointerEvent} event */
    #press(event) {
        if (event.button !== 0 || this.#tool === "hand") return;
        if (this.#painting) {
            // A second finger: both zoom and pan, and the stroke of the first is taken back.
            this.#mask.undo();
            this.#zoom.adopt(this.#painting);
            this.#zoom.adopt(event);
            this.#painting = undefined;
            return;
        }
        this.#painting = event;
        this.#frame.setPointerCapture(event.pointerId);
        this.#point = this.#at(event);
        this.#mask.add({ kind: this.#tool, radius: this.#radius, points: [this.#point] });
        this.#showSide();
    }

    /** @param {PointerEvent} event */
    #move(event) {
        this.#point = this.#at(event);
        this.#showCursor();
        if (!this.#painting) return;
        for (const one of event.getCoalescedEvents?.() ?? [event]) this.#mask.extend(this.#at(one));
    }

    /** @param {KeyboardEvent} event */
    #onKey(event) {
        const far = Math.max(2, Math.round(this.#radius / (event.shiftKey ? 8 : 1)));
        const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
        const move = /** @type {Record<string, number[]>} */ (moves)[event.key];
        const tool = event.ctrlKey || event.metaKey ? undefined : TOOLS[event.key];
        const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
        if (isUndo) event.shiftKey ? this.#mask.redo() : this.#mask.undo();
        else if (move && this.#tool !== "hand") {
            const { width, height } = this.#mask.canvas;
            this.#point = [
                Math.min(Math.max(0, this.#point[0] + move[0]), width),
                Math.min(Math.max(0, this.#point[1] + move[1]), height),
            ];
            this.#reveal();
        } else if (this.#tool !== "hand" && (event.key === " " || event.key === "Enter")) {
            this.#mask.add({ kind: this.#tool, radius: this.#radius, points: [this.#point] });
        } else if (tool) this.#tool = tool;
        else if (event.key === "[") this.#radius = Math.max(2, Math.round(this.#radius / 1.25));
        else if (event.key === "]") this.#radius = Math.min(512, Math.round(this.#radius * 1.25));
        else if (event.key === "i") this.#mask.add({ kind: "invert" });
        else if (!this.#zoom.key(event)) return;
        event.preventDefault();
        this.#showCursor();
        this.#showSide();
    }

    /** Move the picture so that the point of the keys is on the screen. */
    #reveal() {
        const { canvas } = this.#mask;
        const [box, frame] = [canvas.getBoundingClientRect(), this.#frame.getBoundingClientRect()];
        const x = box.left + (this.#point[0] / canvas.width) * box.width;
        const y = box.top + (this.#point[1] / canvas.height) * box.height;
        const into = (/** @type {number} */ at, /** @type {number} */ least, /** @type {number} */ most) =>
            Math.min(Math.max(at, least + MARGIN), most - MARGIN) - at;
        this.#zoom.pan(into(x, frame.left, frame.right), into(y, frame.top, frame.bottom));
    }

    /** The outline of the brush. */
    #showCursor() {
        const { canvas } = this.#mask;
        const [box, board] = [canvas.getBoundingClientRect(), this.#board.getBoundingClientRect()];
        if (box.width === 0) return;
        const scale = box.width / canvas.width / this.#zoom.scale;
        const [x, y] = [
            (box.left - board.left) / this.#zoom.scale + this.#point[0] * scale,
            (box.top - board.top) / this.#zoom.scale + this.#point[1] * scale,
        ];
        const px = 2 * this.#radius * scale;
        const isHand = this.#tool === "hand";
        this.#cursor.hidden = isHand || !server.can("masks");
        this.#frame.classList.toggle("hand", isHand);
        Object.assign(this.#cursor.style, { width: `${px}px`, height: `${px}px` });
        this.#cursor.style.transform = `translate(${x - px / 2}px, ${y - px / 2}px)`;
    }

    #showSide() {
        const masks = server.can("masks");
        const change = (/** @type {() => void} */ work) => () => {
            work();
            this.#showSide();
            this.#showCursor();
        };
        const tool = (/** @type {Tool} */ name) =>
            button(
                name,
                t[name],
                change(() => (this.#tool = name)),
                {
                    shown: true,
                    "aria-pressed": String(this.#tool === name),
                    "data-focus": name,
                },
            );
        const mark = (/** @type {import("../mask.js").Mark} */ one) => change(() => this.#mask.add(one));
        fill(
            this.#side,
            h("h2", { class: "title" }, t.editor),
            masks && [
                h("p", { class: "help" }, t.editorHelp),
                h("div", { class: "row tool-row" }, tool("brush"), tool("eraser"), tool("hand")),
                field(
                    t.brushSize,
                    this.#slider(this.#radius, 2, 512, "radius", (px) => (this.#radius = px)),
                ),
                field(
                    t.feather,
                    this.#slider(draft.value.feather, 0, 64, "feather", (px) => draft.set({ feather: px })),
                ),
                h(
                    "div",
                    { class: "row" },
                    button(
                        "undo",
                        t.undo,
                        change(() => this.#mask.undo()),
                        { disabled: !this.#mask.canUndo, "data-focus": "undo" },
                    ),
                    button(
                        "redo",
                        t.redo,
                        change(() => this.#mask.redo()),
                        { disabled: !this.#mask.canRedo, "data-focus": "redo" },
                    ),
                    button("invert", t.invert, mark({ kind: "invert" }), { "data-focus": "invert" }),
                    button("trash", t.clear, mark({ kind: "clear" }), { "data-focus": "clear" }),
                ),
            ],
            server.can("outpainting") && this.#outpaintFields(),
            button("check", t.useMask, () => void attempt(() => this.#use()), { shown: true, class: "button primary" }),
        );
    }

    /**
     * @param {number} value @param {number} least @param {number} most @param {string} name
     * @param {(value: number) => void} set
     */
    #slider(value, least, most, name, set) {
        const input = h("input", {
            type: "range",
            min: least,
            max: most,
            value: String(value),
            "data-focus": name,
            oninput: () => {
                set(Number(input.value));
                this.#showCursor();
            },
        });
        return input;
    }

    #outpaintFields() {
        const side = (/** @type {Side} */ name) => {
            const input = h("input", {
                type: "number",
                min: 0,
                max: MOST,
                step: server.limits.grid_px,
                value: String(this.#outpaint[name]),
                "data-focus": `outpaint-${name}`,
                onchange: () => {
                    this.#extend(name, Number(input.value));
                    input.value = String(this.#outpaint[name]);
                },
            });
            return field(t.sides[name], input);
        };
        return [h("h3", { class: "title" }, t.extend), h("div", { class: "four" }, SIDES.map(side))];
    }

    /** Take picture, mask and canvas into the draft. */
    async #use() {
        if (!this.#source) return;
        const isExtended = Object.values(this.#outpaint).some((px) => px > 0);
        const mask = this.#mask.isEmpty ? "" : (await upload(await this.#mask.file())).sha256;
        const { mask_from_alpha, mask_invert, ...painting } = draft.value.painting;
        const isDrafted = draft.value.source?.sha256 === this.#source.sha256;
        this.#used = mask;
        draft.set({
            source: this.#source,
            mask,
            outpaint: isExtended ? this.#outpaint : null,
            painting: isDrafted ? painting : {},
        });
        this.#dialog.close();
        document.getElementById("prompt")?.focus();
    }
}

customElements.define("flux-canvas", Canvas);
