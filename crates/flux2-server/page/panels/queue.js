// Jobs in progress: previews, steps, time left, places in the queue; and failures that say what to do.

import { again, attempt, sentence, useSettings, useSmaller } from "../actions.js";
import { ApiError } from "../api.js";
import { button, h, Panel } from "../dom.js";
import { duration } from "../format.js";
import { show, small } from "../images.js";
import { jobs } from "../jobs.js";
import { t } from "../text.js";
import { announce } from "./notices.js";

/** @typedef {import("../jobs.js").Followed} Followed */

/** Time between two announcements of a step, in milliseconds. */
const ANNOUNCE_MS = 5000;

class Queue extends Panel {
    /** Cards by the id of their job: an element stays while its job does, so that the focus stays too. */
    #cards = /** @type {Map<string, Card>} */ (new Map());

    start() {
        const list = h("ul", { class: "jobs" });
        const section = h("section", { "aria-label": t.queue }, h("h2", { class: "title" }, t.queue), list);
        this.replaceChildren(section);
        const render = () => {
            const all = [...jobs.active, ...jobs.failed];
            section.hidden = all.length === 0;
            const ids = new Set(all.map((one) => one.job.id));
            for (const [id, card] of this.#cards) {
                if (ids.has(id)) continue;
                if (card.element.contains(document.activeElement)) document.getElementById("draw")?.focus();
                card.element.remove();
                this.#cards.delete(id);
            }
            for (const [index, followed] of all.entries()) {
                const { id } = followed.job;
                let card = this.#cards.get(id);
                if (!card || card.state !== followed.job.state) {
                    card?.element.remove();
                    card = followed.job.state === "failed" ? failure(followed) : new Progress(followed);
                    this.#cards.set(id, card);
                }
                card.update(followed);
                if (list.children[index] !== card.element)
                    list.insertBefore(card.element, list.children[index] ?? null);
            }
        };
        this.listen(jobs, "change", render);
        this.listen(jobs, "done", () => announce(t.done));
        this.listen(jobs, "cancelled", () => announce(t.cancelled));
        this.listen(jobs, "failed", ({ detail }) => announce(`${t.failed}: ${reason(detail)}`));
        render();
    }
}

/**
 * @typedef {object} Card
 * @property {HTMLElement} element
 * @property {string} state
 * @property {(followed: Followed) => void} update
 */

/** A job that waits or runs. */
class Progress {
    #image = h("img", { alt: "", width: 96, height: 96, hidden: true });
    #state = h("p", { class: "help" });
    #bar = h("span", { class: "bar" });
    #track = h("div", { class: "track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, this.#bar);
    #lastAnnounced = performance.now();

    /** @param {Followed} followed */
    constructor({ job }) {
        this.state = job.state;
        this.#track.setAttribute("aria-label", t.progress(job.request.prompt.slice(0, 80)));
        const frame = h("div", { class: "frame" }, this.#image);
        frame.style.aspectRatio = `${job.request.width} / ${job.request.height}`;
        const cancel = button("close", t.cancelJob, () => void attempt(() => jobs.cancel(job.id)), { shown: true });
        cancel.lastElementChild?.replaceChildren(t.cancel);
        this.element = h(
            "li",
            { class: `job ${job.state}` },
            frame,
            h("div", { class: "grow" }, prompt(job), this.#state, this.#track),
            cancel,
        );
    }

    /** @param {Followed} followed */
    update(followed) {
        const { job, preview } = followed;
        const words = describe(followed);
        if (this.#state.textContent !== words) this.#state.textContent = words;
        const part = Math.round(100 * fraction(job));
        this.#bar.style.width = `${part}%`;
        this.#track.classList.toggle("unknown", job.state === "running" && part === 0);
        this.#track.setAttribute("aria-valuenow", String(part));
        this.#track.setAttribute("aria-valuetext", words);
        const last = job.images.at(-1);
        if (preview) this.#image.src = preview;
        else if (last) show(this.#image, small(last.thumbnail, 96));
        this.#image.hidden = !preview && !last;
        if (job.state === "running" && performance.now() - this.#lastAnnounced > ANNOUNCE_MS) {
            this.#lastAnnounced = performance.now();
            announce(words);
        }
    }
}

/** A job that ended without all of its pictures. @param {Followed} followed @returns {Card} */
function failure({ job }) {
    const dismiss = () => jobs.dismiss(job.id);
    const act = (/** @type {() => unknown} */ work) => () => {
        work();
        dismiss();
    };
    const isMemory = job.error?.class === "out_of_memory";
    const element = h(
        "li",
        { class: "job failed" },
        h(
            "div",
            { class: "grow" },
            prompt(job),
            h("p", { class: "error" }, reason(job)),
            h(
                "div",
                { class: "row" },
                isMemory &&
                    button(
                        "fit",
                        t.useSmaller,
                        act(() => useSmaller(job)),
                        { shown: true },
                    ),
                button(
                    "again",
                    t.tryAgain,
                    act(() => again(job)),
                    { shown: true },
                ),
                button(
                    "use",
                    t.useSettings,
                    act(() => useSettings(job)),
                    { shown: true },
                ),
            ),
        ),
        button("close", t.dismiss, dismiss),
    );
    return { element, state: job.state, update: () => {} };
}

/** @param {Job} job */
function reason({ error }) {
    if (!error) return t.failed;
    return sentence(new ApiError(1, { code: error.class, message: error.message, hint: error.hint ?? "" }));
}

/** @param {Job} job */
function prompt({ request }) {
    return h("p", { class: "one-line strong", title: request.prompt }, request.prompt);
}

/** How much of a job is done, from 0 to 1. @param {Job} job */
function fraction({ request, images, progress }) {
    const steps = progress?.steps || request.steps;
    const done = Math.max(images.length, progress?.image ?? 0);
    // The last part of a picture is decoding.
    const now = progress && progress.image >= images.length ? progress.step / (steps + 1) : 0;
    return Math.min((done + now) / request.count, 1);
}

/** Where a job is, in words. @param {Followed} followed */
function describe({ job, stepMs }) {
    if (job.state === "queued") {
        const place = job.position ? t.position(job.position) : t.isNext;
        return job.wait_seconds && job.wait_seconds > 1
            ? `${place} · ${t.startsIn(duration(job.wait_seconds))}`
            : place;
    }
    const { progress, request } = job;
    if (!progress) return t.running;
    const parts = [];
    if (request.count > 1) parts.push(t.pictureOf(progress.image + 1, request.count));
    const stage = progress.stage ?? "";
    if (progress.step > 0 && progress.step < progress.steps) parts.push(t.step(progress.step, progress.steps));
    else if (stage.startsWith("load")) parts.push(t.loading);
    else parts.push(t.stages[progress.step > 0 ? "decode" : stage] ?? t.running);
    if (stepMs > 0) {
        const left = progress.steps - progress.step + (request.count - progress.image - 1) * progress.steps;
        if (left > 0) parts.push(t.left(duration((left * stepMs) / 1000)));
    }
    return parts.join(" · ");
}

customElements.define("flux-queue", Queue);
