// What the server can do, and whether it is there.

import { call, connection } from "./api.js";

/** Most time between two attempts to reach the server, in milliseconds. */
const LONGEST_PAUSE = 10_000;

/** What the server can do. Dispatches `change`. */
class Server extends EventTarget {
    /** @type {Capabilities | null} */
    capabilities = null;
    /** @type {"starting" | "ready" | "offline" | "locked"} */
    state = "starting";
    #pause = 1000;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    #timer;

    constructor() {
        super();
        connection.addEventListener("offline", () => this.#become("offline"));
        connection.addEventListener("locked", () => this.#become("locked"));
        connection.addEventListener("online", () => void this.load());
        addEventListener("online", () => void this.load());
    }

    /** Ask what it can do, again and again until it answers. */
    async load() {
        clearTimeout(this.#timer);
        try {
            this.capabilities = await call("GET", "/api/v1/capabilities");
            this.#pause = 1000;
            this.#become("ready");
        } catch {
            if (this.state === "locked") return;
            this.#timer = setTimeout(() => void this.load(), this.#pause);
            this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
        }
    }

    /** @param {Server["state"]} state */
    #become(state) {
        const isNew = state !== this.state || state === "ready";
        this.state = state;
        if (state === "offline") {
            clearTimeout(this.#timer);
            this.#timer = setTimeout(() => void this.load(), this.#pause);
        }
        if (isNew) this.dispatchEvent(new Event("change"));
    }

    /** Whether something is built in. @param {string} feature */
    can(feature) {
        return this.capabilities?.features[feature] === true;
    }

    /** The model of a name or alias; the default one for any other name. @param {string} name */
    model(name) {
        const models = this.capabilities?.models ?? [];
        return models.find((model) => model.name === name || model.aliases.includes(name)) ?? models[0];
    }

    get limits() {
        return this.capabilities?.limits ?? NO_LIMITS;
    }
}

/** Until the server has told them. */
const NO_LIMITS = {
    grid_px: 16,
    min_px: 64,
    max_px: 4096,
    max_pixels: 4 << 20,
    max_steps: 1000,
    max_count: 10,
    max_references: 4,
    max_prompt_chars: 32_000,
    max_image_bytes: 50 << 20,
    max_body_bytes: 64 << 20,
};

export const server = new Server();
