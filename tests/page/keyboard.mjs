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

    async "presets, a contact sheet and a comparison"() {
        const site = await Site.start();
        try {
            await site.drawn(Array.from({ length: 3 }, (_, at) => ({ prompt: `number ${at}` })));
            const page = await open(site);
            await cells(page).nth(2).waitFor();
            const to = (label) => tabTo(page, label, (found) => found.label === label);
            await to("Landscape");
            await page.keyboard.press("Enter");
            await page.locator(".size-shown", { hasText: "624 × 416" }).waitFor();
            await to("Name of the preset");
            await page.keyboard.type("mine");
            await to("Save these settings");
            await page.keyboard.press("Enter");
            await page.getByRole("button", { name: "mine", exact: true }).waitFor();
            await to("Select several");
            await page.keyboard.press("Space");
            await tabTo(page, "the first picture", ({ className }) => className === "open");
            await page.keyboard.press("Space");
            await page.keyboard.press("ArrowRight");
            await page.keyboard.press("Space");
            await page.getByText("2 selected").waitFor();
            await page.keyboard.press("Shift+Tab");
            await page.keyboard.press("Shift+Tab");
            await page.keyboard.press("Shift+Tab");
            same(await page.evaluate(() => document.activeElement?.textContent), "Contact sheet");
            const downloading = page.waitForEvent("download");
            await page.keyboard.press("Enter");
            same((await downloading).suggestedFilename(), "contact-sheet.png");
            await page.keyboard.press("Tab");
            await page.keyboard.press("Tab");
            await page.keyboard.press("Enter");
            await tabTo(page, "a picture", ({ className }) => className === "open");
            await page.keyboard.press("Enter");
            await to("Compare");
            await page.keyboard.press("Enter");
            const slider = page.getByLabel("Where the second picture begins");
            const value = async () => Number(await slider.inputValue());
            same([await slider.evaluate((one) => one === document.activeElement), await value()], [true, 50]);
            await page.keyboard.press("ArrowRight");
            await page.keyboard.press("ArrowRight");
            same(await value(), 51);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "a mask and a larger canvas"() {
        const site = await Site.start();
        try {
            await site.drawn([{ prompt: "a red fox" }]);
            const page = await open(site);
            await cells(page).first().waitFor();
            await tabTo(page, "the picture", ({ className }) => className === "open");
            await page.keyboard.press("e");
            await page.getByRole("application").waitFor();
            await page.keyboard.press("Space");
            const to = (label) => tabTo(page, label, (found) => found.label === label);
            await to("Left");
            await page.keyboard.type("64");
            await to("Use this");
            same(await page.getByLabel("Left", { exact: true }).inputValue(), "64");
            await page.keyboard.press("Enter");
            await page.getByText("Only the painted part changes. The canvas is extended.").waitFor();
            same(await page.evaluate(() => document.activeElement?.id), "prompt", "the focus is at the prompt");
            await page.keyboard.type("a boat");
            await page.keyboard.press("Control+Enter");
            await cells(page).nth(1).waitFor();
            const [{ request }] = (await site.call("GET", "/api/v1/jobs")).jobs;
            same([request.source.outpaint, request.source.mask?.length], [["64", "0", "0", "0"], 64]);
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
