// Elements from JavaScript. Texts become text nodes, so nothing that a user types is read as markup.

import { paths } from "./icons.js";

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element. `on…` are listeners; `value`, `checked` and the like are properties; `true` is an attribute without a
 * value, and `false`, `null` and `undefined` leave it out.
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Record<string, any>} [attributes]
 * @param {(Child | Child[])[]} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function h(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
        else if (properties.has(key)) /** @type {any} */ (element)[key] = value;
        else if (value === true) element.setAttribute(key, "");
        else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, String(value));
    }
    element.append(...nodes(children));
    return element;
}

const properties = new Set([
    "value",
    "checked",
    "disabled",
    "selected",
    "indeterminate",
    "open",
    "hidden",
    "draggable",
]);

/** @param {(Child | Child[])[]} children @returns {(Node | string)[]} */
function nodes(children) {
    const present = /** @type {Child[]} */ (children.flat(3)).filter(
        (child) => child !== null && child !== undefined && child !== false,
    );
    return present.map((child) => (typeof child === "number" ? String(child) : /** @type {Node | string} */ (child)));
}

/**
 * Replace what is in an element. The focus stays on the element with the same `data-focus`.
 * @param {Element} parent
 * @param {(Child | Child[])[]} children
 */
export function fill(parent, ...children) {
    const active = document.activeElement;
    const focused = active instanceof HTMLElement && parent.contains(active) ? active.dataset.focus : undefined;
    parent.replaceChildren(...nodes(children));
    if (focused !== undefined) find(parent, `[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

/** @type {WeakMap<Element, string>} */
const shown = new WeakMap();

/**
 * As `fill`, if `key` is another one than before. What somebody is about to press is not replaced under the pointer.
 * @param {Element} parent
 * @param {unknown} key
 * @param {() => Child | Child[]} make
 */
export function fillIf(parent, key, make) {
    const text = JSON.stringify(key);
    if (shown.get(parent) === text) return;
    shown.set(parent, text);
    fill(parent, make());
}

/** @param {ParentNode} parent @param {string} selector @returns {HTMLElement | null} */
export function find(parent, selector) {
    return parent.querySelector(selector);
}

/**
 * A drawing of 24 x 24 that takes the color of the text around it. Screen readers skip it.
 * @param {keyof typeof paths} name
 */
export function icon(name) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    for (const [key, value] of [
        ["viewBox", "0 0 24 24"],
        ["class", "icon"],
        ["aria-hidden", "true"],
    ]) {
        svg.setAttribute(key, value);
    }
    const path = document.createElementNS(space, "path");
    path.setAttribute("d", paths[name]);
    svg.append(path);
    return svg;
}

/**
 * A button with an icon. Its text is shown, or only read out and shown when the pointer rests on it.
 * @param {keyof typeof paths} image
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [attributes] `shown: true` shows the text
 */
export function button(image, label, onclick, { shown = false, ...attributes } = {}) {
    const base = { type: "button", class: shown ? "button" : "button only-icon", onclick };
    const name = shown ? {} : { "aria-label": label, title: label };
    return h("button", { ...base, ...name, ...attributes }, icon(image), shown && h("span", {}, label));
}

/** A switch: a button that is pressed or not. @param {string} label @param {boolean} is @param {() => void} onclick */
export function toggle(label, is, onclick, attributes = {}) {
    return h("button", { type: "button", class: "chip", "aria-pressed": String(is), onclick, ...attributes }, label);
}

/**
 * A field with its label.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {Child[]} extra what stands beside the control
 */
export function field(label, control, ...extra) {
    control.id ||= `field-${(count += 1)}`;
    const name = h("label", { for: control.id }, label);
    return h("div", { class: "field" }, name, h("div", { class: "row" }, control, ...extra));
}
let count = 0;

/**
 * A choice of one value.
 * @param {[string, string][]} options values and their texts
 * @param {string} value
 * @param {(value: string) => void} choose
 */
export function select(options, value, choose, attributes = {}) {
    const items = options.map(([key, text]) => h("option", { value: key, selected: key === value }, text));
    const change = (/** @type {Event} */ event) => choose(/** @type {HTMLSelectElement} */ (event.target).value);
    return h("select", { onchange: change, ...attributes }, items);
}

/** Base of all panels: knows when it is on the page, and stops listening when it is not. */
export class Panel extends HTMLElement {
    /** @type {AbortController | undefined} */
    #listening;

    connectedCallback() {
        this.#listening = new AbortController();
        this.start();
    }

    disconnectedCallback() {
        this.#listening?.abort();
    }

    /** Show what there is, and listen. */
    start() {}

    /**
     * @param {EventTarget} target
     * @param {string} name
     * @param {(event: any) => void} listener
     * @param {AddEventListenerOptions} [options]
     */
    listen(target, name, listener, options = {}) {
        target.addEventListener(name, listener, { signal: this.#listening?.signal, ...options });
    }
}

/**
 * Wait until nothing came for a time.
 * @param {number} ms
 * @param {() => void} work
 */
export function later(ms, work) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    return () => {
        clearTimeout(timer);
        timer = setTimeout(work, ms);
    };
}
