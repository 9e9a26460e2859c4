// The gallery: search, filters, selection, and a grid that holds only what is on the screen.

import { attempt, edit, remove, toggleFavorite } from "../actions.js";
import { contactSheet } from "../sheet.js";
import { button, fill, fillIf, h, later, Panel, select, toggle } from "../dom.js";
import { show, small } from "../images.js";
import { pictures } from "../pictures.js";
import { server } from "../server.js";
import { t } from "../text.js";

/** @typedef {import("../pictures.js").Picture} Picture */

/** Least side of a cell and the space between cells, in pixels. */
const CELL = 168;
const GAP = 12;
/** Most columns: on a very wide screen the cells are larger, not more. */
const COLUMNS = 12;
/** Rows that are kept above and below the screen. */
const SPARE = 2;

class Gallery extends Panel {
    /** @type {Map<string, HTMLElement>} */
    #cells = new Map();
    #grid = h("div", { class: "grid", role: "list", "aria-label": t.gallery });
    #empty = h("div", { class: "empty" });
    #bar = h("div", { class: "row tools" });
    #columns = 1;
    #side = CELL;
    /** Number of the picture that the Tab key leads to. */
    #current = 0;
    #isSelecting = false;
    /** @type {Set<string>} */
    #selected = new Set();

    start() {
        const search = h("input", {
            type: "search",
            placeholder: t.search,
            "aria-label": t.search,
            oninput: later(250, () => pictures.setFilter({ search: search.value.trim() })),
        });
        const filters = h("div", { class: "row filters" });
        const head = h("div", { class: "gallery-head" }, h("h2", { class: "title" }, t.gallery), search, filters);
        this.replaceChildren(h("section", { "aria-label": t.gallery }, head, this.#bar, this.#empty, this.#grid));
        const showFilters = () => {
            const { model, favorite } = pictures.filter;
            const names = server.capabilities?.models.map((one) => one.name);
            fillIf(filters, [model, favorite, this.#isSelecting, names], () => this.#filters());
        };
        const place = () => this.#place();
        this.listen(pictures, "change", () => {
            place();
            showFilters();
        });
        this.listen(server, "change", showFilters);
        this.listen(window, "scroll", () => requestAnimationFrame(place), { passive: true });
        // What is above may grow, and push the grid away without a scroll.
        const sizes = new ResizeObserver(() => this.#measure());
        for (const element of [this.#grid, document.body]) sizes.observe(element);
        this.#grid.addEventListener("keydown", (event) => this.#onKey(event));
        this.search = search;
        showFilters();
        this.#measure();
    }

    #filters() {
        const models = server.capabilities?.models ?? [];
        const options = /** @type {[string, string][]} */ ([
            ["", t.allModels],
            ...models.map(({ name }) => [name, name]),
        ]);
        const { model, favorite } = pictures.filter;
        const flip = () => pictures.setFilter({ favorite: !favorite });
        const mark = () => this.#setSelecting(!this.#isSelecting);
        const choose = (/** @type {string} */ value) => pictures.setFilter({ model: value });
        return [
            models.length > 1 &&
                select(options, model, choose, { "aria-label": t.model, "data-focus": "filter-model", class: "plain" }),
            toggle(t.favorites, favorite, flip, { "data-focus": "filter-favorite" }),
            button("select", t.selectMany, mark, { "aria-pressed": String(this.#isSelecting), "data-focus": "select" }),
        ];
    }

    /** @param {boolean} is */
    #setSelecting(is) {
        this.#isSelecting = is;
        this.#selected.clear();
        this.classList.toggle("selecting", is);
        this.#showSelection();
        pictures.dispatchEvent(new Event("change"));
    }

    #showSelection() {
        const chosen = pictures.list.filter((picture) => this.#selected.has(picture.id));
        const has = chosen.length > 0;
        const sheet = () => void attempt(() => contactSheet(chosen));
        const drop = () => {
            remove(chosen);
            this.#setSelecting(false);
        };
        fill(
            this.#bar,
            this.#isSelecting && [
                h("span", { role: "status" }, t.selected(chosen.length)),
                button("sheet", t.contactSheet, sheet, { shown: true, disabled: !has, "data-focus": "sheet" }),
                button("trash", t.delete, drop, { shown: true, disabled: !has, "data-focus": "delete" }),
                button("close", t.cancel, () => this.#setSelecting(false), { shown: true, "data-focus": "cancel" }),
            ],
        );
    }

    /** Count the columns that fit. */
    #measure() {
        const width = this.#grid.clientWidth;
        if (width === 0) return;
        const least = Math.min(Math.max(CELL, width / COLUMNS - GAP), (width - GAP) / 2);
        this.#columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
        this.#side = (width - GAP * (this.#columns - 1)) / this.#columns;
        this.#place();
    }

    /** Show the cells that are on the screen, and no others. */
    #place() {
        const { list } = pictures;
        const step = this.#side + GAP;
        const rows = Math.ceil(list.length / this.#columns);
        this.#grid.style.height = `${Math.max(0, rows * step - GAP)}px`;
        this.#showEmpty();
        const top = -this.#grid.getBoundingClientRect().top;
        const first = Math.max(0, Math.floor(top / step) - SPARE) * this.#columns;
        const last = Math.min(list.length, (Math.ceil((top + innerHeight) / step) + SPARE) * this.#columns);
        this.#current = Math.min(this.#current, Math.max(0, list.length - 1));
        const wanted = new Map();
        for (let index = first; index < last; index += 1) wanted.set(list[index].id, index);
        // The cell with the focus stays, however far the page is scrolled.
        for (const [id, cell] of this.#cells) {
            const index = cell.contains(document.activeElement) ? list.findIndex((one) => one.id === id) : -1;
            if (index >= 0) wanted.set(id, index);
            if (wanted.has(id)) continue;
            cell.remove();
            this.#cells.delete(id);
        }
        // Those that are there first: a new one finds its place among them.
        const order = [...wanted].sort(([a], [b]) => Number(this.#cells.has(b)) - Number(this.#cells.has(a)));
        for (const [id, index] of order) this.#placeCell(id, list[index], index);
        if (last + 2 * this.#columns > list.length && pictures.hasMore) void pictures.more();
    }

    /** @param {string} id @param {Picture} picture @param {number} index */
    #placeCell(id, picture, index) {
        let cell = this.#cells.get(id);
        if (!cell) {
            cell = this.#cell(picture);
            this.#cells.set(id, cell);
            // Screen readers read the cells in the order of the document.
            const isLater = (/** @type {Element} */ other) => Number(other.ariaPosInSet) > index + 1;
            this.#grid.insertBefore(cell, [...this.#grid.children].find(isLater) ?? null);
        }
        const step = this.#side + GAP;
        const [x, y] = [(index % this.#columns) * step, Math.floor(index / this.#columns) * step];
        cell.style.transform = `translate(${x}px, ${y}px)`;
        cell.style.width = cell.style.height = `${this.#side}px`;
        cell.setAttribute("aria-posinset", String(index + 1));
        cell.setAttribute("aria-setsize", String(pictures.list.length));
        const [open, star] = /** @type {HTMLButtonElement[]} */ ([...cell.children]);
        open.tabIndex = star.tabIndex = index === this.#current ? 0 : -1;
        star.setAttribute("aria-pressed", String(picture.image.is_favorite));
        if (this.#isSelecting) open.setAttribute("aria-pressed", String(this.#selected.has(id)));
        else open.removeAttribute("aria-pressed");
    }

    /** @param {Picture} picture */
    #cell(picture) {
        const { job, image } = picture;
        const element = h("img", { alt: job.request.prompt, decoding: "async", draggable: true });
        element.addEventListener("error", () => element.classList.add("missing"));
        element.addEventListener("load", () => element.classList.add("loaded"));
        show(element, small(image.thumbnail, this.#side));
        const star = button("star", t.favorite, () => void toggleFavorite(picture), { class: "button only-icon star" });
        const open = h("button", { type: "button", class: "open", onclick: () => this.#press(picture) }, element);
        return h("div", { class: "cell", role: "listitem", "data-id": picture.id }, open, star);
    }

    /** @param {Picture} picture */
    #press(picture) {
        this.#current = Math.max(0, pictures.list.indexOf(picture));
        if (!this.#isSelecting) {
            document.dispatchEvent(new CustomEvent("open-picture", { detail: picture.id }));
            return;
        }
        if (!this.#selected.delete(picture.id)) this.#selected.add(picture.id);
        this.#showSelection();
        this.#place();
    }

    /** @param {KeyboardEvent} event */
    #onKey(event) {
        /** @type {Record<string, number>} */
        const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.#columns, ArrowUp: -this.#columns };
        const { list } = pictures;
        const picture = list[this.#current];
        let next = this.#current + (moves[event.key] ?? 0);
        if (event.key === "Home") next = 0;
        if (event.key === "End") next = list.length - 1;
        if (event.key === "Delete" && picture) remove([picture]);
        else if (event.key === "f" && picture) void toggleFavorite(picture);
        else if (event.key === "e" && picture && server.can("masks")) void edit(picture);
        else if (next === this.#current) return;
        event.preventDefault();
        this.#focus(Math.min(Math.max(0, next), pictures.list.length - 1));
    }

    /** @param {number} index */
    #focus(index) {
        const picture = pictures.list[index];
        if (!picture) return this.search?.focus();
        this.#current = index;
        const step = this.#side + GAP;
        const y = Math.floor(index / this.#columns) * step + this.#grid.getBoundingClientRect().top;
        if (y < 0) scrollBy(0, y - GAP);
        if (y + step > innerHeight) scrollBy(0, y + step - innerHeight);
        this.#place();
        /** @type {HTMLElement | undefined} */ (this.#cells.get(picture.id)?.children[0])?.focus({
            preventScroll: true,
        });
    }

    #showEmpty() {
        const isEmpty = pictures.list.length === 0 && pictures.isLoaded;
        this.#empty.hidden = !isEmpty;
        if (!isEmpty) return;
        const all = () => {
            if (this.search) this.search.value = "";
            pictures.setFilter({ search: "", model: "", favorite: false });
        };
        if (pictures.isFiltered) {
            const again = h(
                "button",
                { type: "button", class: "button", onclick: all, "data-focus": "all" },
                t.showAll,
            );
            fill(this.#empty, h("h3", {}, t.nothingFound), again);
        } else {
            fill(this.#empty, h("h3", {}, t.nothingYet), h("p", {}, t.nothingYetHelp));
        }
    }
}

customElements.define("flux-gallery", Gallery);
