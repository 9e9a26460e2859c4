// The prompt: text, history, templates, wildcards.

import { draft } from "../draft.js";
import { button, fill, fillIf, h, Panel, toggle } from "../dom.js";
import { server } from "../server.js";
import { history, Store } from "../store.js";
import { number } from "../format.js";
import { t } from "../text.js";
import { hasWildcards, lists } from "../wildcards.js";

/** Templates by their name; `{prompt}` stands for what is there. */
const TEMPLATES = new Store("templates", {
    Photograph: "A photograph of {prompt}, natural light, 50 mm lens, shallow depth of field",
    Watercolor: "A watercolor painting of {prompt}, soft washes, visible paper texture",
    "Line drawing": "A black ink line drawing of {prompt} on white paper, clean lines",
    Product: "A product photograph of {prompt} on a plain light background, soft studio light",
    Poster: "A flat poster illustration of {prompt}, bold shapes, three colors",
    Isometric: "An isometric drawing of {prompt}, clean edges, pastel colors",
});

class Prompt extends Panel {
    /** @type {HTMLElement} */
    #menu = h("div", { class: "menu-body", hidden: true });
    #opened = "";

    start() {
        const area = h("textarea", {
            id: "prompt",
            rows: 4,
            value: draft.value.prompt,
            placeholder: t.promptHint,
            spellcheck: "true",
            "aria-describedby": "prompt-help",
            oninput: () => draft.set({ prompt: area.value }),
            onkeydown: (/** @type {KeyboardEvent} */ event) => {
                if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
                event.preventDefault();
                document.dispatchEvent(new Event("draw"));
            },
        });
        const help = h("span", { id: "prompt-help", class: "help" });
        const wildcards = h("span");
        const tools = h(
            "div",
            { class: "row tight" },
            this.#opener("history", "history", t.history, () => this.#history()),
            this.#opener("templates", "list", t.templates, () => this.#templates()),
            this.#opener("lists", "dice", t.wildcards, () => this.#lists()),
            wildcards,
            help,
        );
        this.replaceChildren(h("label", { for: "prompt", class: "title" }, t.prompt), area, tools, this.#menu);
        const show = () => {
            const { prompt, wildcards: isOn } = draft.value;
            if (area.value !== prompt) area.value = prompt;
            const most = server.limits.max_prompt_chars;
            const length = [...prompt].length;
            const isLong = length > most / 2;
            help.textContent = isLong ? t.characters(length, most) : t.promptHelp;
            help.classList.toggle("error", length > most);
            const flip = () => draft.set({ wildcards: !isOn });
            const has = hasWildcards(prompt);
            fillIf(wildcards, [has, isOn], () => has && toggle(t.wildcards, isOn, flip, { "data-focus": "wildcards" }));
        };
        this.listen(draft, "change", show);
        this.listen(server, "change", show);
        this.listen(lists, "change", show);
        this.listen(document, "keydown", (/** @type {KeyboardEvent} */ event) => {
            if (event.key === "Escape" && this.#opened && this.contains(document.activeElement)) this.#close();
        });
        show();
    }

    /**
     * A button that opens a menu below the prompt.
     * @param {string} name
     * @param {Parameters<typeof button>[0]} image
     * @param {string} label
     * @param {() => HTMLElement[]} content
     */
    #opener(name, image, label, content) {
        const open = () => {
            const isOpen = this.#opened === name;
            this.#close();
            if (isOpen) return;
            this.#opened = name;
            this.#menu.hidden = false;
            fill(this.#menu, h("div", { role: "group", "aria-label": label }, ...content()));
            opener.setAttribute("aria-expanded", "true");
        };
        const opener = button(image, label, open, { "aria-expanded": "false" });
        return opener;
    }

    #close() {
        const opener = this.querySelector('[aria-expanded="true"]');
        opener?.setAttribute("aria-expanded", "false");
        if (this.#menu.contains(document.activeElement)) /** @type {HTMLElement | null} */ (opener)?.focus();
        this.#opened = "";
        this.#menu.hidden = true;
        this.#menu.replaceChildren();
    }

    /** @param {string} text */
    #use(text) {
        draft.set({ prompt: text });
        this.#close();
        /** @type {HTMLElement | null} */ (this.querySelector("textarea"))?.focus();
    }

    #history() {
        const { prompts } = history.value;
        if (prompts.length === 0) return [h("p", { class: "help" }, t.noHistory)];
        const items = prompts.map((text) =>
            h(
                "li",
                {},
                line(text, () => this.#use(text)),
            ),
        );
        const clear = h(
            "button",
            { type: "button", class: "link quiet", onclick: () => this.#clearHistory() },
            t.clear,
        );
        return [h("ul", { class: "lines" }, items), clear];
    }

    #clearHistory() {
        history.set({ prompts: [] });
        this.#close();
    }

    #templates() {
        const templates = /** @type {Record<string, string>} */ (TEMPLATES.value);
        const apply = (/** @type {string} */ template) => {
            const prompt = draft.value.prompt.trim();
            this.#use(template.includes("{prompt}") ? template.replace("{prompt}", () => prompt) : template);
        };
        const known = Object.entries(templates).filter(([, text]) => text);
        const items = known.map(([name, text]) =>
            h(
                "li",
                { class: "row" },
                line(named(t.templateNames, name), () => apply(text), text),
                button("close", `${t.remove}: ${named(t.templateNames, name)}`, (event) => {
                    TEMPLATES.set({ [name]: "" });
                    /** @type {HTMLElement} */ (event.currentTarget).closest("li")?.remove();
                }),
            ),
        );
        const name = h("input", { type: "text", placeholder: t.templateName, "aria-label": t.templateName });
        const save = () => {
            if (!name.value.trim() || !draft.value.prompt.trim()) return;
            TEMPLATES.set({ [name.value.trim()]: draft.value.prompt });
            this.#close();
        };
        return [
            h("p", { class: "help" }, t.templateHint),
            h("ul", { class: "lines" }, items),
            h("div", { class: "row" }, name, button("add", t.saveTemplate, save)),
        ];
    }

    #lists() {
        const all = /** @type {Record<string, string>} */ (lists.value);
        /** @param {[string, string]} list */
        const editor = ([name, text]) => {
            const area = h("textarea", { rows: 3, value: text, oninput: () => lists.set({ [name]: area.value }) });
            const lines = text.split("\n").filter(Boolean).length;
            const meaning = named(t.listNames, name);
            const title = `__${name}__ (${meaning === name ? "" : `${meaning}, `}${number(lines)})`;
            return h("details", {}, h("summary", {}, title), label(meaning, area));
        };
        const name = h("input", { type: "text", placeholder: t.listName, "aria-label": t.listName });
        const add = () => {
            const key = name.value
                .trim()
                .toLowerCase()
                .replace(/[^a-z0-9-]+/g, "-");
            if (!key || all[key]) return;
            lists.set({ [key]: "\n" });
            fill(this.#menu, h("div", {}, ...this.#lists()));
        };
        return [
            h("p", { class: "help" }, t.wildcardsHelp),
            ...Object.entries(all)
                .filter(([, text]) => text)
                .map(editor),
            h("div", { class: "row" }, name, button("add", t.addList, add)),
        ];
    }
}

/** A name in the language of the page, if it is one of the page's own. @param {object} texts @param {string} name */
function named(texts, name) {
    return /** @type {Record<string, string>} */ (texts)[name] ?? name;
}

/** @param {string} name @param {HTMLTextAreaElement} area */
function label(name, area) {
    area.setAttribute("aria-label", name);
    return area;
}

/** A line of a menu. @param {string} text @param {() => void} onclick @param {string} [title] */
function line(text, onclick, title = text) {
    return h("button", { type: "button", class: "line", onclick, title }, text);
}

customElements.define("flux-prompt", Prompt);
