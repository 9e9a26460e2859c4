// Presets: settings under a name, without prompt and images.

import { draft, EMPTY } from "../draft.js";
import { button, fill, h, Panel } from "../dom.js";
import { server } from "../server.js";
import { Store } from "../store.js";
import { t } from "../text.js";

/** @typedef {Partial<import("../draft.js").Draft>} Preset */

/** Presets that the user saved. */
const saved = new Store("presets", { list: /** @type {{name: string, preset: Preset}[]} */ ([]) });

/** Presets that fit every model. @type {[keyof typeof t.builtIn, Preset][]} */
const BUILT_IN = [
    ["standard", {}],
    ["draft", { side: 1, count: 4 }],
    ["large", { side: 1536 }],
    ["portrait", { aspect: "3:4" }],
    ["landscape", { aspect: "3:2" }],
];

/** Settings that a preset begins from. */
function base() {
    const { aspect, side, width, height, steps, guidance, count, format, precision, loras, upscale } = EMPTY;
    return { aspect, side, width, height, steps, guidance, count, format, precision, loras, upscale };
}

class Presets extends Panel {
    start() {
        const list = h("div", { class: "chips" });
        const name = h("input", { type: "text", placeholder: t.presetName, "aria-label": t.presetName, maxlength: 40 });
        const save = () => {
            const text = name.value.trim();
            if (!text) return name.focus();
            saved.set({
                list: [...saved.value.list.filter((one) => one.name !== text), { name: text, preset: now() }],
            });
            name.value = "";
        };
        const form = h("div", { class: "row" }, name, button("add", t.savePreset, save));
        this.replaceChildren(h("h2", { class: "title" }, t.presets), list, form);
        const render = () => {
            const builtIn = BUILT_IN.map(([key, preset]) => chip(t.builtIn[key], preset));
            const own = saved.value.list.map(({ name: text, preset }) =>
                h(
                    "span",
                    { class: "chip-pair" },
                    chip(text, preset),
                    button("close", `${t.remove}: ${text}`, () => drop(text)),
                ),
            );
            fill(list, ...builtIn, ...own);
        };
        this.listen(saved, "change", render);
        render();
    }
}

/** @param {string} text @param {Preset} preset */
function chip(text, preset) {
    const apply = () => draft.set({ ...base(), ...preset });
    return h("button", { type: "button", class: "chip", onclick: apply }, text);
}

/** The settings that are chosen now. @returns {Preset} */
function now() {
    const names = /** @type {(keyof import("../draft.js").Draft)[]} */ (Object.keys(base()));
    const model = server.model(draft.value.model)?.name ?? "";
    return Object.assign({ model }, ...names.map((name) => ({ [name]: draft.value[name] })));
}

/** @param {string} name */
function drop(name) {
    saved.set({ list: saved.value.list.filter((one) => one.name !== name) });
}

customElements.define("flux-presets", Presets);
