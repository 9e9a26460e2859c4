// Files that are dropped on the page or pasted: references, or pictures whose settings are taken over.

import { addReferences, attempt, restore } from "../actions.js";
import { h, Panel } from "../dom.js";
import { t } from "../text.js";
import { notice } from "./notices.js";

class Drop extends Panel {
    start() {
        const zone = (/** @type {string} */ title, /** @type {(files: File[]) => Promise<void>} */ take) =>
            h(
                "div",
                {
                    class: "zone",
                    ondragover: (/** @type {DragEvent} */ event) => event.preventDefault(),
                    ondragenter: (/** @type {Event} */ event) => mark(event, true),
                    ondragleave: (/** @type {Event} */ event) => mark(event, false),
                    ondrop: (/** @type {DragEvent} */ event) => {
                        event.preventDefault();
                        mark(event, false);
                        this.hidden = true;
                        void attempt(() => take([...(event.dataTransfer?.files ?? [])]));
                    },
                },
                title,
            );
        this.replaceChildren(zone(t.useAsReference, addAll), zone(t.useSettings, restoreOrAdd));
        this.hidden = true;
        this.listen(document, "dragenter", (/** @type {DragEvent} */ event) => {
            if (event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]"))
                this.hidden = false;
        });
        this.listen(document, "dragover", (/** @type {DragEvent} */ event) => event.preventDefault());
        this.listen(document, "dragleave", (/** @type {DragEvent} */ event) => {
            if (!event.relatedTarget) this.hidden = true;
        });
        this.listen(document, "drop", (/** @type {DragEvent} */ event) => {
            this.hidden = true;
            // A file that misses the zones must not replace the page.
            event.preventDefault();
        });
        this.listen(document, "paste", (/** @type {ClipboardEvent} */ event) => {
            const files = [...(event.clipboardData?.files ?? [])];
            if (files.length === 0) return;
            event.preventDefault();
            void attempt(() => addAll(files));
        });
    }
}

/** @param {Event} event @param {boolean} is */
function mark(event, is) {
    /** @type {HTMLElement} */ (event.currentTarget).classList.toggle("over", is);
}

/** @param {File[]} files */
async function addAll(files) {
    for (const file of files) {
        if (isImage(file)) await addReferences([{ blob: file, name: file.name }]);
    }
}

/** The settings of the first picture; a picture without any becomes a reference. @param {File[]} files */
async function restoreOrAdd([file]) {
    if (!file || !isImage(file)) return;
    if (await restore(file)) return;
    notice(t.noSettings(file.name));
    await addReferences([{ blob: file, name: file.name }]);
}

/** @param {File} file */
function isImage(file) {
    const is = ["image/png", "image/jpeg", "image/webp"].includes(file.type);
    if (!is) notice(t.noImage(file.name), { isError: true });
    return is;
}

customElements.define("flux-drop", Drop);
