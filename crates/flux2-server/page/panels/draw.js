// The button that draws, and what that would take.

import { draw, sentence } from "../actions.js";
import { ApiError } from "../api.js";
import { draft, prediction } from "../draft.js";
import { h, Panel } from "../dom.js";
import { duration, size } from "../format.js";
import { server } from "../server.js";
import { t } from "../text.js";

class Draw extends Panel {
    #isSending = false;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    #waiting;

    start() {
        const label = h("span");
        const press = () => void this.#draw();
        const submit = h("button", { type: "button", class: "button primary", id: "draw", onclick: press }, label);
        const takes = h("p", { class: "help takes", "aria-live": "off" });
        const problem = h("div", { class: "problem", role: "alert" });
        this.replaceChildren(submit, takes, problem);
        this.problem = problem;
        const show = () => {
            const { count, prompt } = draft.value;
            label.textContent = count > 1 ? t.drawMany(count) : t.draw;
            submit.setAttribute("aria-disabled", String(prompt.trim() === "" || this.#isSending));
            takes.textContent = prediction.problem ? sentence(prediction.problem) : expected();
            takes.classList.toggle("error", prediction.problem !== null);
        };
        this.listen(draft, "change", show);
        this.listen(prediction, "change", show);
        this.listen(server, "change", show);
        this.listen(document, "draw", () => void this.#draw());
        this.show = show;
        show();
    }

    async #draw() {
        if (this.#isSending) return;
        if (draft.value.prompt.trim() === "") {
            this.#tell(t.emptyPrompt);
            document.getElementById("prompt")?.focus();
            return;
        }
        this.#isSending = true;
        this.show?.();
        this.#tell("");
        try {
            await draw();
        } catch (error) {
            const wait = error instanceof ApiError ? error.retryAfter : 0;
            this.#tell(sentence(error), wait);
        } finally {
            this.#isSending = false;
            this.show?.();
        }
    }

    /** @param {string} text @param {number} [wait] seconds until it may succeed */
    #tell(text, wait = 0) {
        clearInterval(this.#waiting);
        if (!text) return this.problem?.replaceChildren();
        const again = h("button", { type: "button", class: "button", onclick: () => void this.#draw() }, t.tryAgain);
        this.problem?.replaceChildren(h("p", {}, text), ...(wait > 0 ? [again] : []));
        if (wait === 0) return;
        let left = wait;
        const count = () => {
            again.disabled = left > 0;
            again.textContent = left > 0 ? t.tryAgainIn(left) : t.tryAgain;
            if (left === 0) clearInterval(this.#waiting);
            left -= 1;
        };
        count();
        this.#waiting = setInterval(count, 1000);
    }
}

/** Time, memory and wait of the draft. */
function expected() {
    const value = prediction.value;
    if (!value) return "\u00a0";
    const time = duration(value.seconds);
    const parts = [value.seconds < 1 ? time : t.about(time)];
    if (value.memory_bytes) parts.push(t.memory(size(value.memory_bytes)));
    if (value.wait_seconds > 1) parts.push(t.startsIn(duration(value.wait_seconds)));
    return [parts.join(" · "), ...value.warnings.map(t.serverSays)].join(". ");
}

customElements.define("flux-draw", Draw);
