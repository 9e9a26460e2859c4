// The gallery, the picture in full, and settings from files.

import { readFileSync } from "node:fs";
import { cells, check, close, drop, open, png, same, Site, temporary, until } from "./site.mjs";

/** A test with a server that has drawn, and a page. */
function gallery(requests, test, options = {}) {
    return async () => {
        const site = await Site.start();
        try {
            const jobs = await site.drawn(requests);
            const page = await open(site, options);
            if (requests.length > 0) await cells(page).first().waitFor();
            await test(page, site, jobs);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

const FOUR = [
    { prompt: "a red fox" },
    { prompt: "a blue whale" },
    { prompt: "a red barn", model: "klein-base-4b" },
    { prompt: "two red foxes", width: 320, height: 256 },
];

const count = (page, expected) => until(`${expected} cells`, async () => (await cells(page).count()) === expected);

export const tests = {
    "search by prompt, filter by model and favorites": gallery(FOUR, async (page) => {
        await count(page, 4);
        await page.getByLabel("Search prompts").fill("RED fox");
        await count(page, 2);
        await page.getByLabel("Search prompts").fill("nothing like it");
        await page.getByText("No picture matches").waitFor();
        await page.getByRole("button", { name: "Show all" }).click();
        await count(page, 4);
        await page.locator(".filters select").selectOption("klein-base-4b");
        await count(page, 1);
        await page.locator(".filters select").selectOption("");
        await count(page, 4);
        await page.locator(".cell").nth(2).hover();
        await page.locator(".cell").nth(2).locator(".star").click();
        await page.getByRole("button", { name: "Favorites" }).click();
        await count(page, 1);
        await page.reload();
        await count(page, 4);
        await page.locator(".star[aria-pressed=true]").waitFor();
    }),

    "a deletion holds at once, everywhere, and can be taken back": gallery(FOUR, async (page, site) => {
        const left = async () => {
            const { jobs } = await site.call("GET", "/api/v1/jobs");
            return jobs.filter((job) => job.images.length === 1).length;
        };
        const tab = await page.context().newPage();
        await tab.goto(page.url());
        const browser = await open(site);
        for (const one of [tab, browser]) await count(one, 4);
        await page.locator(".cell .open").first().focus();
        await page.keyboard.press("Delete");
        await count(page, 3);
        // A message under the pointer stays.
        await page.locator(".notice").hover();
        await until("the server has deleted it", async () => (await left()) === 3);
        for (const one of [tab, browser]) await count(one, 3);
        await page.getByRole("button", { name: "Undo" }).click();
        for (const one of [page, tab, browser]) await count(one, 4);
        same(await page.locator(".cell img").first().getAttribute("alt"), "two red foxes", "at its place");
        await page.locator(".cell .open").first().focus();
        await page.keyboard.press("Delete");
        await page.locator(".notice", { hasText: "Picture deleted." }).waitFor();
        await page.reload();
        await count(page, 3);
        same(await left(), 3);
        for (const one of [tab, browser]) await count(one, 3);
        await close(browser);
    }),

    async "a deletion outlives a crash of the server"() {
        const site = await Site.start(["--state", temporary()]);
        try {
            await site.drawn([{ prompt: "a red fox" }, { prompt: "an owl" }]);
            const page = await open(site, { mayFail: true });
            await count(page, 2);
            await page.locator(".cell .open").first().focus();
            await page.keyboard.press("Delete");
            await page.locator(".notice", { hasText: "Picture deleted." }).waitFor();
            await page.locator(".notice", { hasText: "Picture deleted." }).hover();
            await site.stop("SIGKILL");
            await site.begin();
            await page.locator(".state", { hasText: "Ready" }).waitFor();
            await count(page, 1);
            // The message is still there, and its button still works.
            await page.getByRole("button", { name: "Undo" }).click();
            await count(page, 2);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "a picture that cannot be deleted comes back": gallery(
        FOUR,
        async (page) => {
            await page.route("**/images/0", (route) =>
                route.request().method() === "DELETE" ? route.abort() : route.continue(),
            );
            await page.locator(".cell .open").first().focus();
            await page.keyboard.press("Delete");
            await page.locator(".notice.error").waitFor();
            await count(page, 4);
        },
        { mayFail: true },
    ),

    "several are selected for a contact sheet and deleted": gallery(FOUR, async (page) => {
        await page.getByRole("button", { name: "Select several" }).click();
        await page.locator(".cell .open").nth(0).click();
        await page.locator(".cell .open").nth(2).click();
        await page.getByText("2 selected").waitFor();
        const downloading = page.waitForEvent("download");
        await page.getByRole("button", { name: "Contact sheet" }).click();
        const file = readFileSync(await (await downloading).path());
        // Two columns and one row of 512 pixels with 24 around, and 40 for the text.
        same([file.readUInt32BE(16), file.readUInt32BE(20)], [1096, 600]);
        await page.getByRole("button", { name: "Delete" }).click();
        await count(page, 2);
    }),

    "the picture in full: parameters, keys, formats": gallery(FOUR, async (page) => {
        await page.locator(".cell .open").nth(1).click();
        const dialog = page.getByRole("dialog", { name: "Picture" });
        await dialog.getByText("a red barn").first().waitFor();
        await dialog.getByText("klein-base-4b").waitFor();
        check(page.url().includes("#picture/"), "the picture has an address");
        await page.keyboard.press("ArrowRight");
        await dialog.getByText("a blue whale").first().waitFor();
        await page.keyboard.press("+");
        check((await dialog.locator(".content").getAttribute("style")).includes("scale(1.5)"), "zoomed");
        await page.keyboard.press("0");
        for (const [format, magic] of [
            ["png", "\x89PNG"],
            ["jpeg", "\xff\xd8\xff"],
            ["webp", "RIFF"],
        ]) {
            const downloading = page.waitForEvent("download");
            await dialog.getByLabel("Download").selectOption(format);
            const download = await downloading;
            check(download.suggestedFilename() === `a-blue-whale-2.${format}`, download.suggestedFilename());
            const bytes = readFileSync(await download.path());
            check(bytes.toString("latin1").startsWith(magic), `${format} is one`);
            await dialog.getByLabel("Download").selectOption("");
        }
        await page.keyboard.press("Escape");
        await dialog.waitFor({ state: "hidden" });
        check(!page.url().includes("#picture"), "the address is that of the page again");
    }),

    "again, vary, settings, seed, reference": gallery([FOUR[0]], async (page, site, [first]) => {
        const act = async (name) => {
            await page.locator(`[data-id="${first.id}/0"] .open`).click();
            await page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
        };
        await act("Run again");
        await count(page, 2);
        await act("Vary");
        await count(page, 3);
        const { jobs } = await site.call("GET", "/api/v1/jobs");
        same(jobs[1].request.seed, jobs[2].request.seed, "the same seed");
        check(jobs[0].request.seed !== jobs[2].request.seed, "another seed");
        same(jobs[1].images[0].sha256, jobs[2].images[0].sha256, "the same picture");
        await act("Enlarge 2 times");
        await count(page, 4);
        const larger = (await site.call("GET", "/api/v1/jobs")).jobs[0];
        same([larger.request.upscale, larger.images[0].width, larger.images[0].seed], [2, 512, jobs[2].request.seed]);
        await act("Use these settings");
        same(await page.getByLabel("Prompt", { exact: true }).inputValue(), "a red fox");
        same(await page.getByLabel("Width", { exact: true }).inputValue(), "256");
        same(await page.getByLabel("Seed", { exact: true }).inputValue(), "1");
        await act("Use as reference");
        await page.locator(".reference", { hasText: "Image 1" }).waitFor();
    }),

    "two pictures are compared by a slider": gallery(FOUR, async (page) => {
        await page.locator(".cell .open").last().click();
        await page.getByRole("button", { name: "Compare", exact: true }).click();
        const slider = page.getByLabel("Where the second picture begins");
        await slider.fill("25");
        check((await page.locator(".over").getAttribute("style")).includes("25%"), "the slider moves the edge");
        await page.getByRole("button", { name: "Compare", exact: true }).click();
        check(!(await page.locator(".over").isVisible()), "closed again");
    }),

    "a dropped picture of ours gives its settings back": gallery([FOUR[3]], async (page, site, jobs) => {
        for (const format of ["png", "jpeg", "webp"]) {
            const path = `/api/v1/jobs/${jobs[0].id}/images/0?format=${format}`;
            const bytes = Buffer.from(await (await fetch(site.base + path)).arrayBuffer());
            await page.getByLabel("Prompt", { exact: true }).fill("something else");
            await drop(page, ".zone >> nth=1", [{ name: `a.${format}`, bytes, type: `image/${format}` }]);
            await page.getByText("All settings of this picture are in place.").last().waitFor();
            same(await page.getByLabel("Prompt", { exact: true }).inputValue(), "two red foxes", format);
            same(
                [
                    await page.getByLabel("Width", { exact: true }).inputValue(),
                    await page.getByLabel("Height", { exact: true }).inputValue(),
                ],
                ["320", "256"],
            );
            await page.reload();
        }
    }),

    "a picture of AUTOMATIC1111 gives its prompt, seed and size": gallery([], async (page) => {
        const parameters =
            "a castle\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 99, " +
            "Size: 512x768, Model hash: abc, Model: sdxl";
        await drop(page, ".zone >> nth=1", [{ name: "b.png", bytes: png(64, 64, [1, 2, 3], { parameters }) }]);
        await page.locator(".notice", { hasText: "What is known of this picture is in place." }).waitFor();
        same(await page.getByLabel("Prompt", { exact: true }).inputValue(), "a castle");
        same(await page.getByLabel("Seed", { exact: true }).inputValue(), "99");
        same(
            [
                await page.getByLabel("Width", { exact: true }).inputValue(),
                await page.getByLabel("Height", { exact: true }).inputValue(),
            ],
            ["512", "768"],
        );
        await drop(page, ".zone >> nth=1", [{ name: "plain.png", bytes: png(64, 64) }]);
        await page.locator(".notice", { hasText: "plain.png has no settings." }).waitFor();
        await page.locator(".reference", { hasText: "plain.png" }).waitFor();
    }),

    "an image from the clipboard becomes a reference": gallery([], async (page) => {
        await page.evaluate((base64) => {
            const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            document.body.dispatchEvent(
                new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }),
            );
        }, png(64, 64).toString("base64"));
        await page.locator(".reference", { hasText: "pasted.png" }).waitFor();
    }),

    "an address of a picture opens it": gallery(FOUR, async (page, site, jobs) => {
        await page.goto(`${site.base}/#picture/${jobs[0].id}/0`);
        await page.reload();
        await page.getByRole("dialog").getByText("a red fox").first().waitFor();
    }),
};
