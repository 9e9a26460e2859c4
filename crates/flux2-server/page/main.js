// The start of the page: texts first, then what is shown.

import { h, icon } from "./dom.js";
import { jobs } from "./jobs.js";
import { server } from "./server.js";
import { loadTexts, t } from "./text.js";

await loadTexts();
// Panels use the texts as soon as they are defined.
await Promise.all(
    ["notices", "header", "prompt", "draw", "references", "size", "options", "presets", "queue", "gallery", "viewer"]
        .concat(["canvas", "key", "drop"])
        .map((name) => import(`./panels/${name}.js`)),
);
foldSettings();
jobs.start();
void server.load();
document.documentElement.classList.add("started");

/** On a narrow screen the settings are folded, so that the pictures are near the prompt. */
function foldSettings() {
    const more = /** @type {HTMLDetailsElement} */ (document.getElementById("more"));
    more.querySelector("summary")?.replaceChildren(h("span", {}, t.more), icon("down"));
    const isWide = matchMedia("(min-width: 62rem)");
    const fold = () => (more.open = isWide.matches);
    isWide.addEventListener("change", fold);
    fold();
}
