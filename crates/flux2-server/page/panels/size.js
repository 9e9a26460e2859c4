// The size: a ratio and an area, or two sides.

import { draft, onGrid, prediction, range, RATIOS, sizeOf } from "../draft.js";
import { button, field, fillIf, h, Panel } from "../dom.js";
import { number, sides } from "../format.js";
import { server } from "../server.js";
import { t } from "../text.js";

class Size extends Panel {
    start() {
        const ratios = h("div", { class: "ratios", role: "radiogroup", "aria-label": t.aspect });
        const shown = h("output", { class: "size-shown" });
        const area = h("input", {
            type: "range",
            step: 16,
            oninput: () => draft.set({ side: Number(area.value) }),
        });
        const sidesRow = h("div", { class: "row sides" });
        const areaField = field(t.area, area, shown);
        this.replaceChildren(h("h2", { class: "title" }, t.size), ratios, areaField, sidesRow);
        const render = () => {
            const value = draft.value;
            this.hidden = value.source !== null;
            const isFree = value.aspect === "free";
            const names = [...RATIOS, ...(value.references.length > 0 ? ["reference"] : []), "free"];
            fillIf(ratios, names, () => names.map((name) => ratio(name, names)));
            for (const one of ratios.querySelectorAll("button")) {
                const is = one.dataset.ratio === chosen(value);
                one.setAttribute("aria-checked", String(is));
                one.tabIndex = is ? 0 : -1;
            }
            const model = server.model(value.model);
            const [least, most] = range(model);
            area.min = String(least);
            area.max = String(most);
            area.value = String(value.side || model?.default_px || 1024);
            const size = sizeOf(value) ?? predicted();
            shown.textContent = size ? `${sides(size[0], size[1])} · ${pixels(size[0] * size[1])}` : "";
            area.setAttribute("aria-valuetext", shown.textContent);
            areaField.hidden = isFree || (value.aspect === "reference" && value.references.length > 0);
            sidesRow.hidden = !isFree;
            fillIf(sidesRow, server.limits, freeSides);
            for (const input of sidesRow.querySelectorAll("input")) {
                const px = String(value[/** @type {"width" | "height"} */ (input.name)] || 1024);
                if (input !== document.activeElement) input.value = px;
            }
        };
        this.listen(draft, "change", render);
        this.listen(server, "change", render);
        this.listen(prediction, "change", render);
        render();
    }
}

/** The ratio that counts: that of a reference only while there is one. @param {import("../draft.js").Draft} value */
function chosen(value) {
    return value.aspect === "reference" && value.references.length === 0 ? "1:1" : value.aspect;
}

/** @returns {[number, number] | null} */
function predicted() {
    return prediction.value ? [prediction.value.width, prediction.value.height] : null;
}

/** @param {number} count */
function pixels(count) {
    return count < 100_000 ? t.pixels(number(count)) : t.megapixels(number(count / 1e6, 1));
}

/** A ratio as a button with its shape. @param {string} name @param {string[]} names */
function ratio(name, names) {
    const choose = (/** @type {string} */ next) => {
        const size = sizeOf(draft.value) ?? predicted() ?? [1024, 1024];
        draft.set({ aspect: next, ...(next === "free" ? { width: size[0], height: size[1] } : {}) });
    };
    const shape = h("span", { class: "shape" });
    const [w, h_] = name.includes(":") ? name.split(":").map(Number) : [1, 1];
    shape.style.aspectRatio = `${w} / ${h_}`;
    shape.style[w >= h_ ? "width" : "height"] = "1rem";
    const text = name === "reference" ? t.asReference : name === "free" ? t.free : name;
    return h(
        "button",
        {
            type: "button",
            role: "radio",
            class: "ratio",
            "data-ratio": name,
            onclick: () => choose(name),
            onkeydown: (/** @type {KeyboardEvent} */ event) => {
                const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
                if (!step) return;
                event.preventDefault();
                const next = names[(names.indexOf(name) + step + names.length) % names.length];
                const group = /** @type {HTMLElement} */ (event.currentTarget).parentElement;
                choose(next);
                /** @type {HTMLElement | null} */ (group?.querySelector(`[data-ratio="${next}"]`))?.focus();
            },
        },
        name.includes(":") && shape,
        text,
    );
}

/** Two fields of pixels. */
function freeSides() {
    const { grid_px: grid, min_px, max_px } = server.limits;
    const side = (/** @type {"width" | "height"} */ name) => {
        const input = h("input", {
            type: "number",
            name,
            min: min_px,
            max: max_px,
            step: grid,
            inputmode: "numeric",
            onchange: () => {
                const other = name === "width" ? "height" : "width";
                const pair = { [name]: Number(input.value) || min_px, [other]: draft.value[other] };
                const [width, height] = onGrid(pair.width, pair.height);
                draft.set({ width, height });
                input.value = String(draft.value[name]);
            },
        });
        return field(name === "width" ? t.width : t.height, input);
    };
    const swap = () => draft.set({ width: draft.value.height, height: draft.value.width });
    return [side("width"), button("again", t.swap, swap), side("height")];
}

customElements.define("flux-size", Size);
