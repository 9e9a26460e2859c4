// The page in German: everything that the page itself says, and labels that have room.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { cells, check, close, draw, launched, open, png, same, Site, toGallery } from "./site.mjs";

const SERVER = "crates/flux2-server/src";
/** Codes that other APIs answer with, or requests that the page never sends. */
const OTHERS = ["no_websocket", "url_not_supported", "file_not_found", "job_is_over", "job_not_finished"].concat([
    "not_supported",
    "too_many_sessions",
]);

/** A test with a server and a German page. */
function german(flags, test, options = {}) {
    return async () => {
        const site = await Site.start(flags);
        try {
            const page = await open(site, { locale: "de-DE", ...options });
            await test(page, site);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

function sources(folder) {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((one) => one.name.endsWith(".rs"))
        .map((one) => readFileSync(path.join(one.parentPath, one.name), "utf8"))
        .join("\n");
}

export const tests = {
    "a language is chosen and kept": async () => {
        const site = await Site.start();
        try {
            const page = await open(site);
            await page.getByLabel("Language").selectOption("de");
            await page.getByRole("button", { name: "Zeichnen" }).waitFor();
            same(await page.locator("html").getAttribute("lang"), "de");
            await page.reload();
            await page.getByRole("heading", { name: "Referenzbilder" }).waitFor();
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "a German browser gets German, names of templates and lists too": german([], async (page) => {
        await page.getByRole("button", { name: "Zeichnen" }).waitFor();
        await page.getByRole("button", { name: "Vorlagen" }).click();
        await page.getByRole("button", { name: "Aquarell", exact: true }).waitFor();
        same(await page.getByRole("button", { name: "Watercolor" }).count(), 0);
        await page.getByRole("button", { name: "Platzhalter" }).click();
        await page.getByText("__animal__ (Tiere, 5)").waitFor();
    }),

    "errors are German": german(
        ["--fake-fail", "riesig=out_of_memory", "--fake-fail", "kaputt=internal"],
        async (page) => {
            await draw(page, "riesig");
            await page.locator(".job.failed", { hasText: "Für dieses Bild reicht der Speicher nicht." }).waitFor();
            same(await page.getByText("memory").count(), 0);
            await draw(page, "kaputt");
            await page
                .locator(".job.failed", { hasText: "Dem Server ist ein Fehler unterlaufen. Der Server meldet: „" })
                .waitFor();
            await page
                .locator("#reference-files")
                .setInputFiles({ name: "a.png", mimeType: "image/png", buffer: png(4, 4).subarray(0, 40) });
            await page.locator(".notice.error", { hasText: "Dieses Bild lässt sich nicht verwenden." }).waitFor();
        },
    ),

    async "every code of the server has a German sentence"() {
        const { de } = await import(path.resolve("crates/flux2-server/page/texts/de.js"));
        const codes = [...sources(SERVER).matchAll(/(?:StatusCode::[A-Z_]+, |\.code\()"([a-z_]+)"/g)].map(
            ([, code]) => code,
        );
        const failure = readFileSync("crates/flux2-jobs/src/failure.rs", "utf8");
        const classes = [...failure.matchAll(/FailureClass::\w+ => "([a-z_]+)"/g)].map(([, name]) => name);
        check(
            codes.length > 30 && classes.length >= 9,
            `${codes.length} codes and ${classes.length} classes are found`,
        );
        const known = { ...de.errors.complete, ...de.errors.beside };
        const missing = [...new Set([...codes, ...classes])].filter((code) => !known[code] && !OTHERS.includes(code));
        same(missing, []);
    },

    async "without JavaScript, both languages say so"() {
        const site = await Site.start();
        const context = await launched().newContext({ javaScriptEnabled: false });
        try {
            const page = await context.newPage();
            await page.goto(site.base);
            const texts = await page.locator("noscript p").allInnerTexts();
            check(texts[0].startsWith("This page needs JavaScript."), texts.join());
            check(texts[1].startsWith("Diese Seite braucht JavaScript."), texts.join());
            check(!(await page.locator("flux-drop").isVisible()), "nothing lies over it");
        } finally {
            await context.close();
            await site.stop("SIGKILL");
        }
    },

    "labels have room at 360 px": german(
        ["--lora", "ink=ink.safetensors"],
        async (page, site) => {
            await site.drawn([{ prompt: "a red fox" }]);
            await page.getByText("Größe und Einstellungen").click();
            await page.getByRole("radio", { name: "Frei" }).click();
            check((await tight(page)).length === 0, `cut or broken: ${await tight(page)}`);
            await toGallery(page);
            await cells(page).first().locator(".open").click();
            await page.getByRole("dialog").getByText("Herunterladen").first().waitFor({ state: "attached" });
            check((await tight(page)).length === 0, `cut or broken: ${await tight(page)}`);
            await page.getByRole("button", { name: "Teil ändern" }).click();
            await page.getByRole("application").waitFor();
            check((await tight(page)).length === 0, `cut or broken: ${await tight(page)}`);
        },
        { viewport: { width: 360, height: 800 }, hasTouch: true },
    ),
};

/** Labels of several lines, texts that their buttons cut off, and choices that are wider than their fields. */
function tight(page) {
    return page.evaluate(() => {
        const seen = (one) => one.checkVisibility() && one.getBoundingClientRect().width > 1;
        const labels = [...document.querySelectorAll(".field > label")].filter((one) => {
            const line = parseFloat(getComputedStyle(one).lineHeight);
            return seen(one) && one.getBoundingClientRect().height > 1.5 * line;
        });
        const buttons = [...document.querySelectorAll("button, .field > label")].filter(
            (one) => seen(one) && !one.matches(".line, .open") && one.scrollWidth > one.clientWidth + 1,
        );
        const pen = new OffscreenCanvas(1, 1).getContext("2d");
        const selects = [...document.querySelectorAll("select")].filter((one) => {
            const style = getComputedStyle(one);
            pen.font = `${style.fontSize} ${style.fontFamily}`;
            const room = one.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 16;
            return seen(one) && pen.measureText(one.selectedOptions[0]?.text ?? "").width > room;
        });
        return [...labels, ...buttons, ...selects].map((one) => one.textContent.trim().slice(0, 30));
    });
}
