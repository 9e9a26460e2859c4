// The pictures of the gallery: loaded page by page, the newest first.

import { ApiError, call } from "./api.js";
import { server } from "./server.js";
import { hear, tell } from "./tabs.js";

/** Jobs of a page. */
const PAGE = 200;
/** Time in which a deletion can be taken back, in milliseconds. */
export const UNDO_MS = 7000;

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
    /** @type {Set<string>} */
    #ids = new Set();
    /** Pictures that are deleted, or about to be. @type {Map<string, ReturnType<typeof setTimeout> | undefined>} */
    #deleted = new Map();
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

    /** Load the first page again. */
    async reload() {
        this.#generation += 1;
        this.#next = "";
        this.isLoading = false;
        await this.more(true);
    }

    /** Load the next page. @param {boolean} [fresh] whether it is the first one */
    async more(fresh = false) {
        if (this.isLoading || this.#next === null) return;
        this.isLoading = true;
        const generation = this.#generation;
        const query = new URLSearchParams({ limit: String(PAGE) });
        if (this.#next) query.set("cursor", this.#next);
        if (this.filter.search) query.set("search", this.filter.search);
        if (this.filter.model) query.set("model", this.filter.model);
        if (this.filter.favorite) query.set("favorite", "true");
        try {
            const page = await call("GET", `/api/v1/jobs?${query}`);
            if (generation !== this.#generation) return;
            if (fresh) this.#clear();
            this.#next = page.next;
            for (const job of page.jobs) this.#insert(job);
            this.isLoaded = true;
        } catch {
            // The state of the connection is shown elsewhere; scrolling asks again.
        } finally {
            if (generation === this.#generation) this.isLoading = false;
        }
        this.#changed();
        // A page of jobs without pictures fills no screen.
        if (this.#next && this.list.length < 50 && generation === this.#generation) void this.more();
    }

    #clear() {
        this.list = [];
        this.#ids.clear();
    }

    /** Take over the pictures of a job that match the filter. @param {Job} job */
    add(job) {
        if (!this.#matches(job)) return;
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

    /** @param {Job} job */
    #insert(job) {
        for (const image of job.images) {
            const id = `${job.id}/${image.index}`;
            if (this.#deleted.has(id) || (this.filter.favorite && !image.is_favorite)) continue;
            if (this.#ids.has(id)) {
                const known = this.find(id);
                if (known) Object.assign(known, { job, image });
                continue;
            }
            this.#ids.add(id);
            const picture = { id, job, image };
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
        return this.list.find((picture) => picture.id === id);
    }

    /** @param {Picture} picture @param {boolean} is */
    async setFavorite({ id, image }, is) {
        image.is_favorite = is;
        this.#changed();
        try {
            await call(is ? "PUT" : "DELETE", `${image.url}/favorite`);
            tell({ favorite: id, is });
        } catch (error) {
            image.is_favorite = !is;
            this.#changed();
            throw error;
        }
    }

    /**
     * Take pictures out of the gallery, and delete them when the time to take that back is over.
     * @param {Picture[]} gone
     * @returns {() => void} takes it back
     */
    remove(gone) {
        const ids = new Set(gone.map((picture) => picture.id));
        this.list = this.list.filter((picture) => !ids.has(picture.id));
        for (const picture of gone) {
            this.#ids.delete(picture.id);
            this.#deleted.set(
                picture.id,
                setTimeout(() => void this.#delete(picture), UNDO_MS),
            );
        }
        this.#changed();
        return () => {
            for (const { id, job } of gone) {
                clearTimeout(this.#deleted.get(id));
                this.#deleted.delete(id);
                this.#insert(job);
            }
            this.#changed();
        };
    }

    /** Take a picture out of the gallery that another tab has deleted. @param {string} id */
    drop(id) {
        this.#deleted.set(id, undefined);
        this.#ids.delete(id);
        this.list = this.list.filter((picture) => picture.id !== id);
        this.#changed();
    }

    /** @param {Picture} picture */
    async #delete(picture) {
        try {
            await call("DELETE", picture.image.url);
            tell({ deleted: picture.id });
        } catch (error) {
            const isGone = error instanceof ApiError && error.status === 404;
            // Its job is not over, or the server is not there.
            if (!isGone)
                this.#deleted.set(
                    picture.id,
                    setTimeout(() => void this.#delete(picture), UNDO_MS),
                );
        }
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
    }
}

export const pictures = new Pictures();
hear(({ deleted, favorite, is }) => {
    if (deleted) pictures.drop(deleted);
    const picture = favorite && pictures.find(favorite);
    if (picture) {
        picture.image.is_favorite = is === true;
        pictures.dispatchEvent(new Event("change"));
    }
});
server.addEventListener("change", () => {
    if (server.state === "ready" && !pictures.isLoaded) void pictures.reload();
});
