// Values that are kept in the browser, and tell when they change.

/**
 * A value under a name of `localStorage`. Dispatches `change`.
 * @template {object} Value
 */
export class Store extends EventTarget {
    #key;
    /** @type {Value} */
    value;

    /**
     * @param {string} key
     * @param {Value} initial
     * @param {boolean} [shared] whether it follows the other tabs
     */
    constructor(key, initial, shared = true) {
        super();
        this.#key = `dj-flux2.${key}`;
        this.value = { ...initial, ...read(this.#key) };
        if (!shared) return;
        addEventListener("storage", (event) => {
            if (event.key !== this.#key) return;
            this.value = { ...initial, ...read(this.#key) };
            this.dispatchEvent(new Event("change"));
        });
    }

    /** @param {Partial<Value>} patch */
    set(patch) {
        this.value = { ...this.value, ...patch };
        write(this.#key, this.value);
        this.dispatchEvent(new Event("change"));
    }
}

/** @param {string} key @returns {any} */
function read(key) {
    try {
        const found = JSON.parse(localStorage.getItem(key) ?? "{}");
        return typeof found === "object" && found !== null ? found : {};
    } catch {
        // What another version or another program left there is no reason to fail.
        return {};
    }
}

/** @param {string} key @param {object} value */
function write(key, value) {
    try {
        localStorage.setItem(key, JSON.stringify(value));
    } catch {
        // Storage is full or forbidden: the value lives as long as the page.
    }
}

/** Choices about the page itself. */
export const settings = new Store("settings", { language: "", key: "" });

/** Prompts that were drawn, the newest first. */
export const history = new Store("history", { prompts: /** @type {string[]} */ ([]) });

/** Failures that nobody wants to see any more, by the id of their job, the newest first. */
export const dismissed = new Store("dismissed", { ids: /** @type {string[]} */ ([]) });

/** @param {string} prompt */
export function remember(prompt) {
    const others = history.value.prompts.filter((known) => known !== prompt);
    history.set({ prompts: [prompt, ...others].slice(0, 50) });
}
