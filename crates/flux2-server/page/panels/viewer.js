// A picture in full: zoom, parameters, everything that can be done with it, comparison with another one.

import * as actions from "../actions.js";
import { button, fill, fillIf, h, Panel, select } from "../dom.js";
import { comparable } from "../compare.js";
import { duration, sides, size, when } from "../format.js";
import { show } from "../images.js";
import { pictures } from "../pictures.js";
import { server } from "../server.js";
import { t } from "../text.js";
import { Zoom } from "../zoom.js";
import { notice } from "./notices.js";

/** @typedef {import("../pictures.js").Picture} Picture */

/** Beginning of the address of a picture, behind the `#`. */
const HASH = "#picture/";

class Viewer extends Panel {
    #image = h("img", { class: "whole", draggable: false });
    #other = h("img", { class: "whole over", alt: "", draggable: false, hidden: true });
    #content = h("div", { class: "content" }, this.#image, this.#other);
    #frame = h("div", { class: "stage", tabindex: 0, role: "img", "aria-label": t.picture }, this.#content);
    #slider = h("input", { type: "range", min: 0, max: 100, step: 0.5, "aria-label": t.comparison });
    #compare = h("div", { class: "compare", hidden: true });
    #side = h("div", { class: "side" });
    #previous = button("left", t.previous, () => this.#step(-1), { class: "button only-icon turn" });
    #next = button("right", t.next, () => this.#step(1), { class: "button only-icon turn" });
    #zoom = new Zoom(this.#frame, this.#content);
    /** @type {HTMLDialogElement} */
    #dialog = h("dialog", { class: "full", "aria-label": t.picture });
    /** @type {Picture | undefined} */
    #picture;
    /** Number of pictures that were shown. */
    #opened = 0;

    start() {
        const close = button("close", t.close, () => this.#dialog.close(), { class: "button only-icon close" });
        const middle = h(
            "div",
            { class: "middle" },
            this.#previous,
            this.#frame,
            this.#next,
            this.#zoom.tools(),
            this.#compare,
        );
        this.#dialog.replaceChildren(middle, this.#side, close);
        this.replaceChildren(this.#dialog);
        this.#slider.addEventListener("input", () => this.#split());
        this.listen(document, "open-picture", ({ detail }) => (location.hash = `picture/${detail}`));
        this.listen(window, "hashchange", () => this.#follow());
        this.listen(pictures, "change", () => this.#refresh());
        this.listen(this.#dialog, "close", () => {
            if (location.hash.startsWith(HASH)) history.replaceState(null, "", location.pathname + location.search);
            const id = this.#picture?.id;
            this.#picture = undefined;
            const cell = id && document.querySelector(`.cell[data-id="${CSS.escape(id)}"] .open`);
            /** @type {HTMLElement | null} */ (cell || document.getElementById("prompt"))?.focus();
        });
        this.listen(this.#dialog, "keydown", (event) => this.#onKey(event));
        this.#follow();
    }

    /** Show what the address names. */
    #follow() {
        const id = location.hash.startsWith(HASH) ? decodeURIComponent(location.hash.slice(HASH.length)) : "";
        const picture = pictures.find(id);
        if (picture) this.#open(picture);
        else if (!id && this.#dialog.open) this.#dialog.close();
    }

    #refresh() {
        if (!this.#picture) return this.#follow();
        if (!pictures.find(this.#picture.id)) return this.#dialog.close();
        this.#showSide(this.#picture);
    }

    /** @param {Picture} picture */
    #open(picture) {
        this.#picture = picture;
        this.#opened += 1;
        this.#endComparison();
        this.#zoom.fit();
        this.#image.alt = picture.job.request.prompt;
        this.#frame.setAttribute("aria-label", picture.job.request.prompt || t.picture);
        show(this.#image, picture.image.url);
        const at = pictures.list.indexOf(picture);
        this.#previous.disabled = at <= 0;
        this.#next.disabled = at >= pictures.list.length - 1;
        this.#showSide(picture);
        if (!this.#dialog.open) this.#dialog.showModal();
        this.#frame.focus({ preventScroll: true });
    }

    /** @param {number} by */
    #step(by) {
        const at = this.#picture ? pictures.list.indexOf(this.#picture) : -1;
        const next = pictures.list[at + by];
        if (at < 0 || !next) return;
        history.replaceState(null, "", `${HASH}${next.id}`);
        this.#open(next);
    }

    /** @param {KeyboardEvent} event */
    #onKey(event) {
        const picture = this.#picture;
        const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
        if (!picture || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
        if (this.#zoom.key(event)) return;
        if (event.key === "ArrowLeft") this.#step(-1);
        else if (event.key === "ArrowRight") this.#step(1);
        else if (event.key === "f") void actions.toggleFavorite(picture);
        else if (event.key === "d") void actions.download(picture, picture.image.format);
        else if (event.key === "Delete") this.#delete(picture);
        else return;
        event.preventDefault();
    }

    /** @param {Picture} picture */
    #delete(picture) {
        const at = pictures.list.indexOf(picture);
        const next = pictures.list[at + 1] ?? pictures.list[at - 1];
        if (next) {
            history.replaceState(null, "", `${HASH}${next.id}`);
            this.#open(next);
        } else {
            this.#dialog.close();
        }
        actions.remove([picture]);
    }

    /** @param {Picture} picture */
    #showSide(picture) {
        const { job, image } = picture;
        const close = (/** @type {() => unknown} */ work) => () => {
            this.#dialog.close();
            void work();
        };
        const shown = { shown: true };
        const formats = /** @type {[string, string][]} */ ([
            ["", `${t.download} …`],
            ...(server.capabilities?.formats ?? []).map((name) => [name, name.toUpperCase()]),
        ]);
        const masks = server.can("masks") || server.can("outpainting");
        const key = [this.#opened, image.is_favorite, server.capabilities?.features];
        fillIf(this.#side, key, () => [
            h("p", { class: "prompt-text", tabindex: 0 }, job.request.prompt),
            h(
                "div",
                { class: "actions" },
                select(formats, "", (format) => format && void actions.download(picture, format), {
                    "aria-label": t.download,
                    class: "button download",
                    "data-focus": "download",
                }),
                button("star", t.favorite, () => void actions.toggleFavorite(picture), {
                    ...shown,
                    "aria-pressed": String(image.is_favorite),
                    "data-focus": "favorite",
                }),
                button(
                    "use",
                    t.useSettings,
                    close(() => actions.useSettings(job, image)),
                    shown,
                ),
                button(
                    "again",
                    t.again,
                    close(() => actions.again(job)),
                    shown,
                ),
                button(
                    "vary",
                    t.vary,
                    close(() => actions.vary(job)),
                    shown,
                ),
                button(
                    "image",
                    t.useAsReference,
                    close(() => actions.useAsReference(picture)),
                    shown,
                ),
                button(
                    "dice",
                    t.useSeed,
                    close(() => actions.useSeed(image)),
                    shown,
                ),
                masks &&
                    button(
                        "brush",
                        t.edit,
                        close(() => actions.edit(picture)),
                        shown,
                    ),
                server.can("upscaling") &&
                    [2, 4].map((n) =>
                        button(
                            "larger",
                            t.enlarge(n),
                            close(() => actions.enlarge(job, image, n)),
                            shown,
                        ),
                    ),
                button("compare", t.compare, () => this.#beginComparison(picture), {
                    ...shown,
                    "data-focus": "compare",
                }),
                button("copy", t.copyParameters, () => void copy(picture), { ...shown, "data-focus": "copy" }),
                button("trash", t.delete, () => this.#delete(picture), shown),
            ),
            h(
                "dl",
                {},
                parameters(picture).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
            ),
        ]);
    }

    /** Show another picture over this one, up to a slider. @param {Picture} picture */
    #beginComparison(picture) {
        if (!this.#compare.hidden) return this.#endComparison();
        const choices = comparable(picture);
        if (choices.length === 0) return notice(t.noOther);
        const choose = (/** @type {string} */ at) => void actions.attempt(() => this.#showOther(choices[Number(at)]));
        choose("0");
        this.#other.hidden = this.#compare.hidden = false;
        this.#slider.value = "50";
        this.#split();
        const options = /** @type {[string, string][]} */ (choices.map(({ name }, at) => [String(at), name]));
        fill(this.#compare, select(options, "0", choose, { "aria-label": t.compareWith }), this.#slider);
        this.#slider.focus();
    }

    /** @param {import("../compare.js").Choice} choice */
    async #showOther({ name, address }) {
        this.#other.alt = name;
        this.#other.src = await address();
    }

    #endComparison() {
        this.#other.hidden = this.#compare.hidden = true;
    }

    #split() {
        this.#other.style.clipPath = `inset(0 0 0 ${this.#slider.value}%)`;
    }
}

/** Names and values of what made a picture. @param {Picture} picture @returns {[string, string][]} */
function parameters({ job, image }) {
    const { request } = job;
    const timing = job.timings[job.images.findIndex((one) => one.index === image.index)];
    const took = timing && timing.text + timing.references + timing.decode + timing.steps.reduce((a, b) => a + b, 0);
    /** @type {[string, string][]} */
    const rows = [
        [t.model, request.model],
        [t.size, sides(image.width, image.height)],
        [t.steps, String(request.steps)],
        [t.seed, String(image.seed)],
        [t.precision, request.precision],
        [t.format, `${image.format.toUpperCase()}, ${size(image.bytes)}`],
        [t.created, when(job.created_at)],
    ];
    if (typeof request.guidance === "number") rows.splice(3, 0, [t.guidance, String(request.guidance)]);
    if (request.loras.length > 0)
        rows.push([t.loras, request.loras.map(({ name, scale }) => `${name} ${scale}`).join(", ")]);
    if (request.references.length > 0) rows.push([t.references, String(request.references.length)]);
    if (took) rows.push([t.drawnIn, duration(took)]);
    return rows;
}

/** Copy the line that other programs read. @param {Picture} picture */
async function copy({ job, image }) {
    const { request } = job;
    const text =
        `${request.prompt}\nSteps: ${request.steps}, Sampler: Euler, CFG scale: ${request.guidance ?? 1}, ` +
        `Seed: ${image.seed}, Size: ${image.width}x${image.height}, Model: ${request.model}`;
    try {
        await navigator.clipboard.writeText(text);
        notice(t.copied);
    } catch {
        notice(t.notCopied, { isError: true });
    }
}

customElements.define("flux-viewer", Viewer);
