// Short messages, some with a button, and what screen readers are told.

import { h, Panel } from "../dom.js";
import { t } from "../text.js";

/** Time that a message is shown, in milliseconds: one to read, a failure, one with a button. */
const SHOWN_MS = { plain: 7000, error: 14_000, action: 20_000 };
const bus = new EventTarget();

/**
 * Show a message.
 * @param {string} text
 * @param {{isError?: boolean, action?: string, onAction?: () => void}} [options]
 */
export function notice(text, options = {}) {
    bus.dispatchEvent(new CustomEvent("notice", { detail: { text, ...options } }));
}

/** Let screen readers say something when they have finished what they say. @param {string} text */
export function announce(text) {
    bus.dispatchEvent(new CustomEvent("announce", { detail: text }));
}

class Notices extends Panel {
    start() {
        const list = h("div", { class: "notices" });
        const polite = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
        const urgent = h("div", { class: "unseen", role: "alert" });
        const box = h("div", {}, list, polite, urgent);
        // What is behind an open dialog can neither be pressed nor heard.
        const place = () => (document.querySelector("dialog[open]") ?? this).append(box);
        place();
        this.listen(document, "close", place, { capture: true });
        this.listen(bus, "announce", ({ detail }) => (polite.textContent = detail));
        this.listen(bus, "notice", ({ detail }) => {
            place();
            (detail.isError ? urgent : polite).textContent = detail.text;
            list.append(message(detail));
            while (list.children.length > 3) list.firstElementChild?.remove();
        });
    }
}

/** @param {{text: string, isError?: boolean, action?: string, onAction?: () => void}} detail */
function message({ text, isError, action, onAction }) {
    const close = () => box.remove();
    const act = () => {
        onAction?.();
        close();
    };
    const box = h(
        "div",
        { class: isError ? "notice error" : "notice" },
        h("p", {}, text),
        action && h("button", { type: "button", class: "link", onclick: act }, action),
        h("button", { type: "button", class: "link quiet", onclick: close }, t.close),
    );
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const start = () => (timer = setTimeout(close, SHOWN_MS[action ? "action" : isError ? "error" : "plain"]));
    // What somebody reads or is about to press stays.
    for (const event of ["pointerenter", "focusin"]) box.addEventListener(event, () => clearTimeout(timer));
    for (const event of ["pointerleave", "focusout"]) box.addEventListener(event, start);
    start();
    return box;
}

customElements.define("flux-notices", Notices);
