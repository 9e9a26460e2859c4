// Model, number format, LoRAs, steps, guidance, seed, number of pictures, file format.

import { freshSeed } from "../actions.js";
import { draft } from "../draft.js";
import { button, field, fillIf, h, icon, Panel, select } from "../dom.js";
import { number } from "../format.js";
import { server } from "../server.js";
import { t } from "../text.js";

const PRECISIONS = ["f32", "bf16", "int8", "fp8"];

class Options extends Panel {
    start() {
        const seed = seedField();
        const slots = fields().map(() => h("div", { class: "slot" }));
        const body = h("div", { class: "stack" }, seed.element, slots);
        this.replaceChildren(h("h2", { class: "title" }, t.options), body);
        const render = () => {
            seed.update();
            fields().forEach(([key, make], at) => fillIf(slots[at], [key, server.capabilities], make));
        };
        this.listen(draft, "change", render);
        this.listen(server, "change", render);
        render();
    }
}

/** The fields, each with what it shows. @returns {[unknown, () => HTMLElement | null][]} */
function fields() {
    const value = draft.value;
    const model = server.model(value.model);
    return [
        [value.count, countField],
        [model?.name, modelField],
        [[value.steps, model?.name], () => stepsField(model)],
        [[value.guidance, model?.name], () => guidanceField(model)],
        [value.loras, loras],
        [[value.strength, value.source], strengthField],
        [value.upscale, upscaleField],
        [value.precision, precisionField],
        [value.format, formatField],
        [[value.others, value.source && value.painting], othersField],
    ];
}

/** The seed. Its elements stay: a press on the dice ends the typing in the field beside it. */
function seedField() {
    const input = h("input", {
        type: "text",
        inputmode: "numeric",
        pattern: "[0-9]*",
        placeholder: t.randomSeed,
        onchange: () => {
            const digits = input.value.replace(/\D/g, "").slice(0, 20);
            const isTooLong = digits !== "" && BigInt(digits) > 0xffff_ffff_ffff_ffffn;
            draft.set({ seed: isTooLong ? "18446744073709551615" : digits, isSeedLocked: digits !== "" });
        },
    });
    const lock = button("unlock", t.lockSeed, () => draft.set({ isSeedLocked: !draft.value.isSeedLocked }));
    const dice = button("dice", t.newSeed, () => draft.set({ seed: String(freshSeed()), isSeedLocked: true }));
    const update = () => {
        const { seed, isSeedLocked } = draft.value;
        if (input.value !== seed) input.value = seed;
        input.classList.toggle("faint", !isSeedLocked);
        lock.setAttribute("aria-pressed", String(isSeedLocked));
        fillIf(lock, isSeedLocked, () => icon(isSeedLocked ? "lock" : "unlock"));
    };
    return { element: field(t.seed, input, dice, lock), update };
}

function countField() {
    const most = server.limits.max_count;
    const set = (/** @type {number} */ count) => draft.set({ count: Math.min(Math.max(1, count || 1), most) });
    const { count } = draft.value;
    const input = h("input", {
        type: "number",
        min: 1,
        max: most,
        value: String(count),
        "data-focus": "count",
        onchange: () => set(Number(input.value)),
    });
    return field(t.count, input);
}

function modelField() {
    const models = server.capabilities?.models ?? [];
    if (models.length < 2) return null;
    const now = server.model(draft.value.model)?.name ?? "";
    // Steps and guidance belong to a model.
    const choose = (/** @type {string} */ model) => draft.set({ model, steps: 0, guidance: null, side: 0 });
    return field(
        t.model,
        select(
            models.map(({ name }) => [name, name]),
            now,
            choose,
            { "data-focus": "model" },
        ),
    );
}

/** @param {Model | undefined} model */
function stepsField(model) {
    const usual = model?.default_steps ?? 4;
    const { steps } = draft.value;
    const input = h("input", {
        type: "number",
        min: 1,
        max: server.limits.max_steps,
        value: steps > 0 ? String(steps) : "",
        placeholder: String(usual),
        "data-focus": "steps",
        onchange: () => draft.set({ steps: Math.min(Math.max(0, Number(input.value) || 0), server.limits.max_steps) }),
    });
    return field(t.steps, input, h("span", { class: "help" }, t.usual(usual)));
}

/** @param {Model | undefined} model */
function guidanceField(model) {
    if (model?.is_distilled !== false) return null;
    const usual = model.default_guidance ?? 4;
    const { guidance } = draft.value;
    const input = h("input", {
        type: "number",
        min: 0,
        max: 20,
        step: 0.5,
        value: guidance === null ? "" : String(guidance),
        placeholder: String(usual),
        "data-focus": "guidance",
        onchange: () => draft.set({ guidance: input.value === "" ? null : Number(input.value) }),
    });
    return field(t.guidance, input, h("span", { class: "help" }, t.usual(usual)));
}

function loras() {
    const names = server.capabilities?.loras ?? [];
    if (names.length === 0) return null;
    const chosen = draft.value.loras;
    const change = (/** @type {number} */ at, /** @type {number} */ scale) =>
        draft.set({ loras: chosen.map((lora, index) => (index === at ? { ...lora, scale } : lora)) });
    const rows = chosen.map(({ name, scale }, at) => {
        const slider = h("input", {
            type: "range",
            min: -1,
            max: 2,
            step: 0.05,
            value: String(scale),
            "aria-label": `${t.strength}: ${name}`,
            "data-focus": `lora-${at}`,
            onchange: () => change(at, Number(slider.value)),
        });
        const remove = () => draft.set({ loras: chosen.filter((_, index) => index !== at) });
        const text = h("span", { class: "grow one-line", title: name }, name);
        return h(
            "div",
            { class: "row" },
            text,
            slider,
            h("output", {}, String(scale)),
            button("close", `${t.remove}: ${name}`, remove),
        );
    });
    const left = names.filter((name) => !chosen.some((lora) => lora.name === name));
    const add = (/** @type {string} */ name) => name && draft.set({ loras: [...chosen, { name, scale: 1 }] });
    const choices = /** @type {[string, string][]} */ ([["", t.addLora], ...left.map((name) => [name, name])]);
    return h("div", { class: "stack" }, rows, left.length > 0 && field(t.loras, select(choices, "", add)));
}

/** How much of the source is drawn anew. */
function strengthField() {
    const { source, strength } = draft.value;
    if (!source || !server.can("strength")) return null;
    const input = h("input", {
        type: "range",
        min: 0.05,
        max: 1,
        step: 0.05,
        value: String(strength),
        "data-focus": "strength",
        onchange: () => draft.set({ strength: Number(input.value) }),
    });
    return field(t.strength, input, h("output", {}, String(strength)));
}

function upscaleField() {
    if (!server.can("upscaling")) return null;
    const factors = including([2, 4], draft.value.upscale || 2);
    const options = /** @type {[string, string][]} */ ([
        ["0", t.notEnlarged],
        ...factors.map((factor) => [String(factor), `${number(factor, 2)}×`]),
    ]);
    const choose = (/** @type {string} */ value) => draft.set({ upscale: Number(value) });
    return field(t.enlargeTo, select(options, String(draft.value.upscale), choose, { "data-focus": "upscale" }));
}

/**
 * The choices that are offered, and the one that a picture had.
 * @template Value
 * @param {Value[]} offered
 * @param {Value} chosen
 */
function including(offered, chosen) {
    return offered.includes(chosen) ? offered : [...offered, chosen];
}

function precisionField() {
    const names = including(PRECISIONS, draft.value.precision || PRECISIONS[0]);
    const options = /** @type {[string, string][]} */ ([["", t.asServed], ...names.map((name) => [name, name])]);
    const choose = (/** @type {string} */ precision) => draft.set({ precision });
    return field(t.precision, select(options, draft.value.precision, choose, { "data-focus": "precision" }));
}

function formatField() {
    const names = server.capabilities?.formats ?? ["png"];
    const options = /** @type {[string, string][]} */ (names.map((name) => [name, name.toUpperCase()]));
    const choose = (/** @type {string} */ format) => draft.set({ format });
    return field(t.format, select(options, draft.value.format, choose, { "data-focus": "format" }));
}

/** What a picture had that the form has no field for. */
function othersField() {
    const { source } = draft.value;
    const part = (/** @type {"others" | "painting"} */ where) =>
        Object.entries(draft.value[where]).map(([name, value]) => {
            const text = `${name}: ${value}`;
            const rest = Object.fromEntries(Object.entries(draft.value[where]).filter(([other]) => other !== name));
            const drop = () => draft.set({ [where]: rest });
            return h(
                "span",
                { class: "chip-pair" },
                h("span", {}, text),
                button("close", `${t.remove}: ${text}`, drop),
            );
        });
    const chips = [...part("others"), ...(source ? part("painting") : [])];
    if (chips.length === 0) return null;
    return h("div", { class: "stack" }, h("span", { class: "help" }, t.others), h("div", { class: "chips" }, chips));
}

customElements.define("flux-options", Options);
