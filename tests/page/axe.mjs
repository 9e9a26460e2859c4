// Accessibility: axe-core without serious findings, sizes of touch targets, no sideways scrolling.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { cells, check, close, draw, FOLDER, open, png, Site, temporary, toGallery } from "./site.mjs";

const AXE = readFileSync(path.join(FOLDER, "node_modules/axe-core/axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** Findings that are serious or critical. */
async function findings(page, state) {
    await page.evaluate(AXE);
    const { violations } = await page.evaluate((tags) => window.axe.run(document, { runOnly: tags }), TAGS);
    const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
    return serious.map(
        ({ id, nodes }) => `${state}: ${id}: ${nodes.map((node) => node.html.slice(0, 160)).join("\n  ")}`,
    );
}

/** Buttons and fields that a finger does not hit: under 44 px in both directions or in one. */
function smallTargets(page) {
    return page.evaluate(() => {
        const all = [...document.querySelectorAll("button, select, input, textarea, a, summary, .edge")];
        const seen = all.filter((one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: false }));
        const targets = seen.filter((one) => !one.classList.contains("unseen") && !one.classList.contains("skip"));
        return targets
            .map((one) => ({ html: one.outerHTML.slice(0, 100), box: one.getBoundingClientRect() }))
            .filter(({ box }) => box.width < 43.5 || box.height < 43.5)
            .map(({ html, box }) => `${Math.round(box.width)}x${Math.round(box.height)} ${html}`);
    });
}

function inState(width, colorScheme) {
    return async () => {
        const site = await Site.start([
            "--fake-step-ms",
            "3000",
            "--fake-fail",
            "broken=out_of_memory",
            "--max-batch",
            "1",
        ]);
        try {
            await site.drawn([
                { prompt: "a red fox", steps: 1 },
                { prompt: "a <b>bold</b> owl", steps: 1 },
            ]);
            const isTouch = width < 500;
            const viewport = { width, height: 900 };
            // axe makes elements from text, which the policy of the page forbids.
            const page = await open(site, { viewport, colorScheme, hasTouch: isTouch, bypassCSP: true });
            await cells(page).nth(1).waitFor();
            const found = await findings(page, "gallery");
            if (isTouch) {
                const small = await smallTargets(page);
                check(small.length === 0, `too small for a finger:\n${small.join("\n")}`);
            }
            const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
            check((await overflow()) <= 0, "the page scrolls sideways");
            await page
                .locator("#reference-files")
                .setInputFiles({ name: "a.png", mimeType: "image/png", buffer: png(96, 64) });
            await page.locator(".reference").waitFor();
            if (isTouch) await page.getByText("Size and settings").click();
            await page.getByRole("radio", { name: "Free" }).click();
            await page.getByRole("button", { name: "Templates" }).click();
            await draw(page, "broken");
            await page.locator(".job.failed").waitFor();
            await draw(page, "a");
            await draw(page, "b");
            await page.locator(".job.queued").waitFor();
            found.push(...(await findings(page, "jobs")));
            check((await overflow()) <= 0, "the page with jobs scrolls sideways");
            await toGallery(page);
            await page.locator(".cell .open").first().click();
            await page.locator("dialog[open]").waitFor();
            found.push(...(await findings(page, "picture")));
            if (isTouch) {
                const small = await smallTargets(page);
                check(small.length === 0, `too small for a finger:\n${small.join("\n")}`);
            }
            await page.getByRole("dialog").getByRole("button", { name: "Edit a part" }).click();
            await page.locator(".paper canvas").waitFor();
            found.push(...(await findings(page, "editor")));
            if (isTouch) {
                const small = await smallTargets(page);
                check(small.length === 0, `too small for a finger:\n${small.join("\n")}`);
            }
            await page.keyboard.press("Escape");
            check(found.length === 0, found.join("\n"));
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

/** The dialog that asks for a key. */
function keyDialog(width, colorScheme) {
    return async () => {
        const keys = path.join(temporary(), "keys");
        writeFileSync(keys, `alice ${createHash("sha256").update("s3cret").digest("hex")}\n`);
        const site = await Site.start(["--api-key-file", keys]);
        try {
            const viewport = { width, height: 900 };
            const page = await open(site, { viewport, colorScheme, hasTouch: width < 500, bypassCSP: true });
            const dialog = page.getByRole("dialog", { name: "This server needs a key" });
            await dialog.getByLabel("API key").fill("wrong");
            await page.keyboard.press("Enter");
            await dialog.getByText("The server does not know this key.").waitFor();
            const found = await findings(page, "key");
            check(found.length === 0, found.join("\n"));
            const small = width < 500 ? await smallTargets(page) : [];
            check(small.length === 0, `too small for a finger:\n${small.join("\n")}`);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

export const tests = {
    "360 px, light": inState(360, "light"),
    "360 px, dark": inState(360, "dark"),
    "1440 px, light": inState(1440, "light"),
    "1440 px, dark": inState(1440, "dark"),
    "the key, 360 px, dark": keyDialog(360, "dark"),
    "the key, 1440 px, light": keyDialog(1440, "light"),
};
