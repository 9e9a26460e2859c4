// The start of the page: texts first, then what is shown.

import { connection } from "./api.js";
import { jobs } from "./jobs.js";
import { server } from "./server.js";
import { loadTexts } from "./text.js";

await loadTexts();
// Panels use the texts as soon as they are defined.
await Promise.all(
    ["notices", "header", "prompt", "draw", "references", "size", "options", "presets", "queue", "gallery", "viewer"]
        .concat(["canvas", "key", "drop"])
        .map((name) => import(`./panels/${name}.js`)),
);
connection.addEventListener("locked", () => document.documentElement.classList.add("locked"));
jobs.start();
void server.load();
document.documentElement.classList.add("started");
