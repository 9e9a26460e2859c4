// Reference images: chosen, dropped, pasted, ordered; numbered as the prompt counts them.

import { addReferences, editSource } from "../actions.js";
import { draft, prediction } from "../draft.js";
import { button, fillIf, h, Panel } from "../dom.js";
import { sides } from "../format.js";
import { ofUpload, show } from "../images.js";
import { server } from "../server.js";
import { t } from "../text.js";
import { announce } from "./notices.js";

class References extends Panel {
    start() {
        const list = h("ol", { class: "references" });
        const source = h("div");
        const input = h("input", {
            type: "file",
            accept: "image/png,image/jpeg,image/webp",
            multiple: true,
            class: "unseen",
            tabindex: -1,
            "aria-label": t.addReference,
            id: "reference-files",
            onchange: () => {
                const files = [...(input.files ?? [])].map((file) => ({ blob: file, name: file.name }));
                input.value = "";
                void addReferences(files);
            },
        });
        const add = h(
            "button",
            { type: "button", class: "drop", onclick: () => input.click(), id: "add-reference" },
            h("span", { class: "drop-title" }, t.addReference),
            h("span", { class: "help" }, t.referencesHelp),
        );
        const title = h("h2", { class: "title" }, t.references);
        this.replaceChildren(title, source, list, input, add);
        const render = () => {
            const { references, source: picture, mask, outpaint } = draft.value;
            const most = server.limits.max_references;
            const { capabilities } = server;
            const key = [references, prediction.value?.references, capabilities?.features];
            fillIf(list, key, () => references.map((one, index) => item(one, index, references.length)));
            list.hidden = references.length === 0;
            add.hidden = references.length >= most;
            fillIf(source, [picture, mask, outpaint], () => picture && sourceItem(picture));
            title.hidden = most === 0;
        };
        this.listen(draft, "change", render);
        this.listen(server, "change", render);
        this.listen(prediction, "change", render);
        render();
    }
}

/** The picture that is changed in parts. @param {import("../draft.js").DraftReference} source */
function sourceItem(source) {
    const image = h("img", { alt: source.name, width: 64, height: 64 });
    show(image, ofUpload(source.sha256));
    const { mask, outpaint } = draft.value;
    const what = [mask && t.hasMask, outpaint && t.hasOutpaint].filter(Boolean).join(" ");
    return h(
        "div",
        { class: "reference source" },
        image,
        h("div", { class: "grow" }, h("strong", {}, t.source), h("span", { class: "help" }, what)),
        button("brush", t.edit, () => editSource(source)),
        button("close", t.remove, () => draft.set({ source: null, mask: "", outpaint: null, painting: {} })),
    );
}

/** @param {import("../draft.js").DraftReference} one @param {number} index @param {number} count */
function item(one, index, count) {
    const image = h("img", { alt: "", width: 64, height: 64, draggable: false });
    show(image, ofUpload(one.sha256));
    const prepared = prediction.value?.references[index] ?? one;
    const px = prepared.width && prepared.height ? t.preparedTo(sides(prepared.width, prepared.height)) : "";
    const mayEdit = server.can("masks") || server.can("outpainting");
    const move = (/** @type {number} */ to) => () => moveTo(one.sha256, index, to);
    return h(
        "li",
        {
            class: "reference",
            draggable: true,
            ondragstart: (/** @type {DragEvent} */ event) => event.dataTransfer?.setData(MOVED, String(index)),
            ondragover: (/** @type {DragEvent} */ event) => isMoved(event) && event.preventDefault(),
            ondrop: (/** @type {DragEvent} */ event) => {
                if (!isMoved(event)) return;
                event.preventDefault();
                const from = Number(event.dataTransfer?.getData(MOVED));
                moveTo(draft.value.references[from]?.sha256 ?? "", from, index);
            },
        },
        image,
        h(
            "div",
            { class: "grow" },
            h("strong", {}, t.referenceNumber(index + 1)),
            h("span", { class: "help one-line", title: one.name }, one.name),
            h("span", { class: "help" }, px),
        ),
        mayEdit && button("brush", t.edit, () => editSource(one)),
        button("left", t.earlier, move(index - 1), { disabled: index === 0, "data-focus": `earlier-${one.sha256}` }),
        button("right", t.later, move(index + 1), {
            disabled: index === count - 1,
            "data-focus": `later-${one.sha256}`,
        }),
        button("close", `${t.remove}: ${t.referenceNumber(index + 1)}`, () => {
            draft.set({ references: draft.value.references.filter((_, at) => at !== index) });
            document.getElementById("add-reference")?.focus();
        }),
    );
}

/** Type of what is dragged from one place of the list to another. */
const MOVED = "application/x-reference";

/** @param {DragEvent} event */
function isMoved(event) {
    return event.dataTransfer?.types.includes(MOVED);
}

/** @param {string} sha256 @param {number} from @param {number} to */
function moveTo(sha256, from, to) {
    const references = [...draft.value.references];
    if (to < 0 || to >= references.length || references[from]?.sha256 !== sha256) return;
    references.splice(to, 0, ...references.splice(from, 1));
    draft.set({ references });
    announce(t.moved(to + 1));
}

customElements.define("flux-references", References);
