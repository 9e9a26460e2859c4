// The pictures of the gallery: loaded page by page, the newest first.

import { call, connection } from "./api.js";
import { server } from "./server.js";
import { hear, tell } from "./tabs.js";

/** Jobs of a page. */
const PAGE = 200;
/** Time after which no answer is on its way any more that is older than a deletion, in milliseconds. */
const LATE_MS = 10_000;

/**
 * @typedef {object} Picture
 * @property {string} id
 * @property {Job} job
 * @property {JobImage} image
 */

/** Pictures that match the filter. Dispatches `change`. */
class Pictures extends EventTarget {
    /** @type {Picture[]} */
    list = [];
    filter = { search: "", model: "", favorite: false };
    isLoading = false;
    /** Whether the first page has come. */
    isLoaded = false;
    /** @type {string | null} */
    #next = null;
    /** Those of the list, by their id. @type {Map<string, Picture>} */
    #known = new Map();
    /** When pictures were deleted here: answers that are older still have them. @type {Map<string, number>} */
    #deleted = new Map();
    /** Jobs that were told while the list is loaded again. @type {Job[]} */
    #late = [];
    /** The server's number of the state of its gallery. */
    #revision = 0;
    /** Id of the newest job that was told. */
    #newest = "";
    #generation = 0;

    get hasMore() {
        return this.#next !== null;
    }

    /** @param {Partial<Pictures["filter"]>} change */
    setFilter(change) {
        this.filter = { ...this.filter, ...change };
        void this.reload();
    }

    get isFiltered() {
        return this.filter.search !== "" || this.filter.model !== "" || this.filter.favorite;
    }

    /** Load the first page. */
    async reload() {
        await this.#load("\uffff");
    }

    /** Load again what is loaded: it was changed elsewhere. */
    async refresh() {
        await this.#load(this.list.at(-1)?.job.id ?? "\uffff");
    }

    /** The newest jobs at the server: the list is loaded again if it missed some, or changes of pictures. */
    follow(/** @type {JobPage} */ { jobs, next, revision }) {
        const isGap = next && jobs[jobs.length - 1].id > this.#newest;
        if (this.isLoaded && (isGap || this.#revision !== revision)) void this.refresh();
        this.#see(jobs[0]);
    }

    /** @param {Job | undefined} job */
    #see(job) {
        if (job && job.id > this.#newest) this.#newest = job.id;
    }

    /** Load pages until one reaches back to a job. @param {string} oldest its id */
    async #load(oldest) {
        const generation = (this.#generation += 1);
        /** @type {Job[]} */
        const found = [];
        let revision = 0;
        /** @type {string | null} */
        let next = "";
        this.isLoading = true;
        this.#late = [];
        try {
            do {
                const page = await this.#page(next);
                if (generation !== this.#generation) return;
                found.push(...page.jobs);
                next = page.next ?? null;
                revision ||= page.revision;
            } while (next && found[found.length - 1].id > oldest);
            const old = this.#known;
            for (const [id, at] of this.#deleted) if (performance.now() - at > LATE_MS) this.#deleted.delete(id);
            this.list = [];
            this.#known = new Map();
            this.#next = next;
            this.#revision = revision;
            this.#see(found[0]);
            for (const job of [...found, ...this.#late]) this.#insert(job, old);
            this.isLoaded = true;
        } catch {
            // The state of the connection is shown elsewhere; the next look asks again.
            return this.#changed();
        } finally {
            if (generation === this.#generation) this.isLoading = false;
        }
        this.#loaded(generation);
    }

    /** Load the next page. */
    async more() {
        if (this.isLoading || this.#next === null) return;
        this.isLoading = true;
        const generation = this.#generation;
        try {
            const page = await this.#page(this.#next);
            if (generation !== this.#generation) return;
            this.#next = page.next ?? null;
            for (const job of page.jobs) this.#insert(job);
        } catch {
            // Scrolling asks again.
            return this.#changed();
        } finally {
            if (generation === this.#generation) this.isLoading = false;
        }
        this.#loaded(generation);
    }

    /** @param {string} cursor @returns {Promise<JobPage>} */
    #page(cursor) {
        const query = new URLSearchParams({ limit: String(PAGE) });
        const { search, model, favorite } = this.filter;
        if (cursor) query.set("cursor", cursor);
        if (search) query.set("search", search);
        if (model) query.set("model", model);
        if (favorite) query.set("favorite", "true");
        return call("GET", `/api/v1/jobs?${query}`);
    }

    /** @param {number} generation */
    #loaded(generation) {
        this.#changed();
        // A page of jobs without pictures fills no screen.
        if (this.#next && this.list.length < 50 && generation === this.#generation) void this.more();
    }

    /** Take over the pictures of a job that match the filter. @param {Job} job */
    add(job) {
        if (!this.#matches(job)) return;
        if (this.isLoading) this.#late.push(job);
        const before = this.list.length;
        this.#insert(job);
        if (this.list.length !== before) this.#changed();
    }

    /** @param {Job} job */
    #matches({ request, images }) {
        const prompt = request.prompt.toLowerCase();
        const { search, model, favorite } = this.filter;
        const words = search.toLowerCase().split(/\s+/).filter(Boolean);
        const isFavorite = !favorite || images.some((image) => image.is_favorite);
        return (!model || model === request.model) && isFavorite && words.every((word) => prompt.includes(word));
    }

    /**
     * @param {Job} job
     * @param {Map<string, Picture>} [old] pictures that others may hold: they stay the same objects
     */
    #insert(job, old) {
        for (const image of job.images) {
            const id = `${job.id}/${image.index}`;
            if (this.#deleted.has(id) || (this.filter.favorite && !image.is_favorite)) continue;
            const known = this.#known.get(id);
            if (known) {
                Object.assign(known, { job, image });
                continue;
            }
            const picture = Object.assign(old?.get(id) ?? {}, { id, job, image });
            this.#known.set(id, picture);
            // Ids of jobs are in the order of their acceptance.
            const isBefore = (/** @type {Picture} */ other) =>
                other.job.id < job.id || (other.job.id === job.id && other.image.index > image.index);
            const last = this.list.at(-1);
            if (!last || !isBefore(last)) this.list.push(picture);
            else this.list.splice(this.list.findIndex(isBefore), 0, picture);
        }
    }

    /** @param {string} id */
    find(id) {
        return this.#known.get(id);
    }

    /** @param {Picture} picture @param {boolean} is */
    async setFavorite({ id, image }, is) {
        image.is_favorite = is;
        this.#changed();
        try {
            await call(is ? "PUT" : "DELETE", `${image.url}/favorite`);
            tell({ gallery: true });
        } catch (error) {
            image.is_favorite = !is;
            this.#changed();
            throw error;
        }
    }

    /** Delete pictures. Those that the server does not delete come back. @param {Picture[]} gone */
    async remove(gone) {
        const ids = new Set(gone.map((picture) => picture.id));
        this.list = this.list.filter((picture) => !ids.has(picture.id));
        for (const id of ids) {
            this.#known.delete(id);
            this.#deleted.set(id, performance.now());
        }
        this.#changed();
        await this.#each(gone, (url) => call("DELETE", url)).catch((error) => {
            for (const id of ids) this.#deleted.delete(id);
            void this.refresh();
            throw error;
        });
    }

    /** Take the deletion of pictures back. @param {Picture[]} gone */
    async restore(gone) {
        for (const { id } of gone) this.#deleted.delete(id);
        await this.#each(gone, (url) => call("POST", `${url}/restore`));
    }

    /** @param {Picture[]} all @param {(url: string) => Promise<unknown>} work */
    async #each(all, work) {
        const done = await Promise.allSettled(all.map(({ image }) => work(image.url)));
        tell({ gallery: true });
        await this.refresh();
        /** @type {PromiseRejectedResult | undefined} */
        const failed = done.find((one) => one.status === "rejected");
        if (failed) throw failed.reason;
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
    }
}

export const pictures = new Pictures();
hear((message) => message.gallery && void pictures.refresh());
// A server that was away may be another one.
connection.addEventListener("online", () => void pictures.refresh());
server.addEventListener("change", () => {
    if (server.state === "ready" && !pictures.isLoaded) void pictures.reload();
});
