// Jobs that wait or run, and those that failed: followed over reloads, lost connections and restarts of the server.

import { ApiError, call, connection, events } from "./api.js";
import { pictures } from "./pictures.js";
import { server } from "./server.js";
import { dismissed } from "./store.js";
import { hear, tell } from "./tabs.js";

/** Jobs whose events are read at one time: a browser has few connections to a server. */
const STREAMS = 2;
/** How long a failure is shown, in milliseconds, unless it is dismissed. */
const SHOWN_MS = 24 * 3600 * 1000;
/** Time between two looks at all jobs, in milliseconds: while there is work, and while there is none. */
const PAUSES = { busy: 2000, idle: 8000 };

/**
 * A job as the page shows it.
 * @typedef {object} Followed
 * @property {Job} job
 * @property {string} [preview] address of an image
 * @property {number} after number of the last event that was read
 * @property {number} stepsSince time when the step before was done
 * @property {number} stepMs time of a step, measured
 */

/** Jobs that are not over, and failures that nobody has dismissed. Dispatches `change`, `failed` and `done`. */
class Jobs extends EventTarget {
    /** @type {Map<string, Followed>} */
    known = new Map();
    /** @type {Map<string, AbortController>} */
    #streams = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    #timer;
    #isLooking = false;

    start() {
        hear((message) => message.jobs && void this.look());
        server.addEventListener("change", () => server.state === "ready" && void this.look());
        connection.addEventListener("online", () => void this.look());
        dismissed.addEventListener("change", () => this.#changed());
        document.addEventListener("visibilitychange", () => {
            if (document.hidden) this.#stopStreams();
            else void this.look();
        });
    }

    /** Those that are not over, the next one first. */
    get active() {
        const order = (/** @type {Followed} */ one) => (one.job.state === "running" ? 0 : (one.job.position ?? 1));
        return [...this.known.values()].filter((one) => !isOver(one.job)).sort((a, b) => order(a) - order(b));
    }

    /** Those that ended without all of their pictures. */
    get failed() {
        const { ids } = dismissed.value;
        return [...this.known.values()].filter(({ job }) => job.state === "failed" && !ids.includes(job.id));
    }

    /** Submit a job. @param {Record<string, unknown>} request @returns {Promise<Job>} */
    async submit(request) {
        // Sent again after a lost connection, it makes no second job.
        const headers = { "idempotency-key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
        const send = () => call("POST", "/api/v1/jobs", { json: request, headers });
        const job = await send().catch(async (error) => {
            if (!(error instanceof ApiError) || error.status !== 0) throw error;
            await new Promise((resolve) => setTimeout(resolve, 1000));
            return send();
        });
        this.#take(job);
        tell({ jobs: true });
        this.#follow();
        return job;
    }

    /** @param {string} id */
    async cancel(id) {
        const job = await call("DELETE", `/api/v1/jobs/${id}`);
        this.#take(job);
        tell({ jobs: true });
    }

    /** Show a failure no more. @param {string} id */
    dismiss(id) {
        this.known.delete(id);
        dismissed.set({ ids: [id, ...dismissed.value.ids].slice(0, 200) });
    }

    /** Ask for the newest jobs, and for those that are not over. */
    async look() {
        clearTimeout(this.#timer);
        if (this.#isLooking || server.state === "locked") return;
        this.#isLooking = true;
        try {
            const [active, newest] = await Promise.all([
                call("GET", "/api/v1/jobs?state=queued,running&limit=200"),
                call("GET", "/api/v1/jobs?limit=20"),
            ]);
            const found = new Map([...newest.jobs, ...active.jobs].map((/** @type {Job} */ job) => [job.id, job]));
            const lost = this.active.filter((one) => !found.has(one.job.id));
            for (const { job } of lost) {
                const ended = await one(job.id);
                if (ended) found.set(job.id, ended);
                else this.known.delete(job.id);
            }
            for (const job of found.values()) this.#take(job);
            this.#follow();
            this.#changed();
            pictures.follow(newest);
        } catch {
            // The next look may succeed; the state of the connection is shown elsewhere.
        } finally {
            this.#isLooking = false;
            const pause = this.active.length > 0 ? PAUSES.busy : PAUSES.idle;
            this.#timer = setTimeout(() => void this.look(), document.hidden ? 4 * pause : pause);
        }
    }

    /** Take over what is known of a job. @param {Job} job */
    #take(job) {
        const known = this.known.get(job.id);
        pictures.add(job);
        if (known) {
            const wasOver = isOver(known.job);
            // An answer may be older than the events that were read while it was on its way.
            if (job.last_event < known.job.last_event) return;
            known.job = job;
            if (!wasOver && isOver(job)) this.#ended(known);
        } else if (!isOver(job) || isFresh(job)) {
            this.known.set(job.id, { job, after: 0, stepsSince: 0, stepMs: 0 });
        }
        this.#changed();
    }

    /** @param {Followed} followed */
    #ended(followed) {
        const { job } = followed;
        this.#streams.get(job.id)?.abort();
        if (job.state !== "failed") this.known.delete(job.id);
        this.dispatchEvent(new CustomEvent(job.state, { detail: job }));
        this.#follow();
    }

    #stopStreams() {
        for (const stream of this.#streams.values()) stream.abort();
        this.#streams.clear();
    }

    /** Read the events of the jobs that are next. */
    #follow() {
        if (document.hidden) return;
        for (const followed of this.active.slice(0, STREAMS)) {
            if (!this.#streams.has(followed.job.id)) void this.#read(followed);
        }
    }

    /** @param {Followed} followed */
    async #read(followed) {
        const { id, links } = followed.job;
        const stop = new AbortController();
        this.#streams.set(id, stop);
        try {
            for await (const event of events(links.events, followed.after, stop.signal)) {
                followed.after = event.id;
                this.#apply(followed, event);
            }
            if (this.known.has(id) && !isOver(followed.job)) this.#take((await one(id)) ?? followed.job);
        } catch {
            // A lost connection: the next look begins again after the last event.
        } finally {
            if (this.#streams.get(id) === stop) this.#streams.delete(id);
        }
    }

    /** @param {Followed} followed @param {import("./api.js").JobEvent} event */
    #apply(followed, { id, name, data }) {
        const job = followed.job;
        job.last_event = Math.max(job.last_event, id);
        if (name === "queued") job.position = data.position;
        if (name === "started") Object.assign(job, { state: "running", position: null, device: data.device });
        if (name === "warning" && !job.warnings.includes(data.text)) job.warnings.push(data.text);
        if (name === "stage") this.#progress(followed, { image: data.image, stage: data.stage });
        if (name === "step") this.#stepped(followed, data);
        if (name === "preview") {
            this.#progress(followed, { image: data.image });
            const kind = String(data.b64_json).startsWith("iVBOR") ? "png" : "jpeg";
            followed.preview = `data:image/${kind};base64,${data.b64_json}`;
        }
        if (name === "image_ready" && !job.images.some((image) => image.index === data.index)) {
            job.images.push(data);
            followed.preview = undefined;
            pictures.add(job);
        }
        if (["done", "failed", "cancelled"].includes(name)) {
            // The numbers of the end, as timings, are not in the event.
            void one(job.id).then((ended) => ended && this.#take(ended));
        }
        this.#changed();
    }

    /** @param {Followed} followed @param {Partial<NonNullable<Job["progress"]>>} change */
    #progress(followed, change) {
        const none = { image: 0, stage: null, step: 0, steps: followed.job.request.steps };
        const before = followed.job.progress ?? none;
        const isNext = change.image !== undefined && change.image !== before.image;
        followed.job.progress = { ...(isNext ? none : before), ...change };
    }

    /** @param {Followed} followed @param {{image: number, step: number, steps: number}} data */
    #stepped(followed, data) {
        const now = performance.now();
        if (followed.stepsSince > 0 && data.step > 1) {
            const took = now - followed.stepsSince;
            followed.stepMs = followed.stepMs > 0 ? 0.7 * followed.stepMs + 0.3 * took : took;
        }
        followed.stepsSince = now;
        this.#progress(followed, data);
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
    }
}

/** Whether a job has failed not long ago, perhaps while the page was closed. @param {Job} job */
function isFresh({ id, state, finished_at }) {
    const isRecent = finished_at && Date.now() - Date.parse(finished_at) < SHOWN_MS;
    return state === "failed" && isRecent && !dismissed.value.ids.includes(id);
}

/** @param {Job} job */
export function isOver(job) {
    return ["done", "failed", "cancelled"].includes(job.state);
}

/** A job as it is now; `null` if there is none any more. @param {string} id @returns {Promise<Job | null>} */
async function one(id) {
    try {
        return await call("GET", `/api/v1/jobs/${id}`);
    } catch (error) {
        if (error instanceof ApiError && error.status === 404) return null;
        throw error;
    }
}

export const jobs = new Jobs();
