// From the prompt to a saved picture without a pointer.

import { cells, check, close, open, same, Site } from "./site.mjs";

/** Press Tab until an element has the focus. */
async function tabTo(page, what, matches) {
    for (let presses = 0; presses < 80; presses += 1) {
        const found = await page.evaluate(() => {
            const one = document.activeElement;
            const label = one?.getAttribute("aria-label") ?? one?.labels?.[0]?.textContent ?? one?.textContent ?? "";
            return { label: label.trim(), id: one?.id ?? "", className: String(one?.className ?? "") };
        });
        if (matches(found)) return;
        await page.keyboard.press("Tab");
    }
    throw new Error(`Tab never leads to ${what}`);
}

export const tests = {
    async "prompt, draw, open, download, close"() {
        const site = await Site.start();
        try {
            const page = await open(site);
            await page.keyboard.press("Tab");
            same(await page.evaluate(() => document.activeElement?.textContent), "Skip to the prompt");
            await page.keyboard.press("Enter");
            await tabTo(page, "the prompt", ({ id }) => id === "prompt");
            await page.keyboard.type("a fox by keyboard");
            await tabTo(page, "the button", ({ id }) => id === "draw");
            await page.keyboard.press("Enter");
            await cells(page).first().waitFor();
            await tabTo(page, "the picture", ({ className }) => className === "open");
            await page.keyboard.press("Enter");
            await page.getByRole("dialog", { name: "Picture" }).waitFor();
            const downloading = page.waitForEvent("download");
            await page.keyboard.press("d");
            check((await (await downloading).suggestedFilename()).startsWith("a-fox-by-keyboard"), "saved");
            await page.keyboard.press("Escape");
            await page.getByRole("dialog", { name: "Picture" }).waitFor({ state: "hidden" });
            same(
                await page.evaluate(() => document.activeElement?.className),
                "open",
                "the focus is back on the picture",
            );
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "arrows in the gallery and in the ratios"() {
        const site = await Site.start();
        try {
            await site.drawn(Array.from({ length: 9 }, (_, at) => ({ prompt: `number ${at}` })));
            const page = await open(site);
            await cells(page).nth(8).waitFor();
            await page.locator(".cell .open").first().focus();
            const alt = () => page.evaluate(() => document.activeElement?.querySelector("img")?.alt);
            await page.keyboard.press("ArrowRight");
            same(await alt(), "number 7");
            await page.keyboard.press("End");
            same(await alt(), "number 0");
            await page.keyboard.press("Home");
            same(await alt(), "number 8");
            await page.keyboard.press("f");
            await page.locator(".star[aria-pressed=true]").waitFor();
            await page.getByRole("radio", { name: "1:1" }).focus();
            await page.keyboard.press("ArrowRight");
            same(await page.evaluate(() => document.activeElement?.textContent), "4:5");
            same(await page.getByRole("radio", { name: "4:5" }).getAttribute("aria-checked"), "true");
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "the focus stays where it is while jobs come and go"() {
        const site = await Site.start(["--fake-step-ms", "150"]);
        try {
            const page = await open(site);
            await page.getByLabel("Prompt", { exact: true }).fill("a fox");
            await page.keyboard.press("Control+Enter");
            await page.keyboard.type(" and an owl");
            await cells(page).first().waitFor();
            same(await page.evaluate(() => document.activeElement?.id), "prompt");
            same(await page.getByLabel("Prompt", { exact: true }).inputValue(), "a fox and an owl");
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },
};
