// Settings come back whole: from a picture of the gallery, from a file, after a failure. What a picture has not is
// cleared.

import { cells, check, close, draw, drop, open, png, same, Site, until } from "./site.mjs";

const FLAGS = ["--lora", "ink=ink.safetensors", "--lora", "wood=wood.safetensors"];
const SENT = (request) => request.url().endsWith("/api/v1/jobs") && request.method() === "POST";

/** Keep an image at the server, and return its digest. */
export async function kept(site, bytes) {
    const answer = await fetch(`${site.base}/api/v1/uploads`, { method: "POST", body: bytes });
    return (await answer.json()).sha256;
}

/** A request with everything that a form can hold, and more. */
async function rich(site) {
    const [first, second, source, mask] = await Promise.all([
        kept(site, png(96, 64, [200, 0, 0])),
        kept(site, png(64, 96, [0, 0, 200])),
        kept(site, png(128, 96, [0, 200, 0])),
        kept(site, png(128, 96, [255, 255, 255])),
    ]);
    return {
        prompt: "a {literal} boat | __animal__",
        model: "klein-base-4b",
        precision: "f32",
        loras: [
            { name: "wood", scale: -0.5 },
            { name: "ink", scale: 1.25 },
        ],
        references: [second, first],
        source,
        mask,
        mask_invert: false,
        mask_grow: 3,
        feather: 5,
        outpaint: "25%,0,16,32",
        outpaint_fill: "#102030",
        strength: 0.6,
        source_reference: false,
        steps: 7,
        guidance: 2.5,
        noise: "torch-cpu",
        seed: 4,
        count: 1,
        format: "webp",
        upscale: 3,
    };
}

const PLAIN = { prompt: "a plain fox", width: 256, height: 192, seed: 3 };

/** The request of the next job that the page makes. @param {any} page @param {Site} site */
async function drawnAgain(page, site) {
    const [request] = await Promise.all([
        page.waitForRequest(SENT),
        page.getByRole("button", { name: "Draw", exact: true }).click(),
    ]);
    const { id } = await (await request.response()).json();
    return (await site.call("GET", `/api/v1/jobs/${id}`)).request;
}

/** What makes a picture; a percentage has become pixels. */
function picture({ source, ...request }, outpaint) {
    return { ...request, source: source && { ...source, outpaint } };
}

const PIXELS = ["32", "0", "16", "32"];

/** A test with a rich and a plain picture. */
function both(test) {
    return async () => {
        const site = await Site.start(FLAGS);
        try {
            const ids = (await site.drawn([await rich(site)].map(unsized).concat(PLAIN))).map(({ id }) => id);
            const jobs = await Promise.all(ids.map((id) => site.call("GET", `/api/v1/jobs/${id}`)));
            const page = await open(site);
            await cells(page).nth(1).waitFor();
            await test(page, site, jobs);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

/** Without the size that `drawn` adds: a source gives it. */
function unsized(request) {
    return { ...request, width: undefined, height: undefined };
}

async function use(page, job) {
    await page.locator(`[data-id="${job.id}/0"] .open`).click();
    await page.getByRole("dialog").getByRole("button", { name: "Use these settings" }).click();
    await until("the prompt is there", async () => {
        return (await page.getByLabel("Prompt", { exact: true }).inputValue()) === job.request.prompt;
    });
}

export const tests = {
    "a picture draws the same once more, and another clears what it has not": both(async (page, site, [all, plain]) => {
        await use(page, all);
        await page.locator(".reference").nth(2).waitFor();
        await page.getByText("noise: torch-cpu").waitFor();
        same(await page.getByLabel("Enlarge").inputValue(), "3", "a factor that is not in the list");
        same(picture(await drawnAgain(page, site), PIXELS), picture(all.request, PIXELS));
        await use(page, plain);
        same(await page.locator(".reference").count(), 0, "references and source are gone");
        same(await drawnAgain(page, site), plain.request);
    }),

    "a dropped file gives the same back": both(async (page, site, [all, plain]) => {
        for (const [job, outpaint] of [
            [all, PIXELS],
            [plain, undefined],
        ]) {
            const path = job.images[0].url;
            const bytes = Buffer.from(await (await fetch(site.base + path)).arrayBuffer());
            const type = `image/${job.request.format}`;
            await drop(page, ".zone >> nth=1", [{ name: "a", bytes, type }]);
            await page.getByText("All settings of this picture are in place.").last().waitFor();
            same(picture(await drawnAgain(page, site), outpaint), picture(job.request, outpaint), job.request.prompt);
        }
    }),

    "what this server does not have is told": async () => {
        const [one, other] = [await Site.start(FLAGS), await Site.start()];
        try {
            const [{ id }] = await one.drawn([unsized(await rich(one))]);
            const bytes = Buffer.from(await (await fetch(`${one.base}/api/v1/jobs/${id}/images/0`)).arrayBuffer());
            const page = await open(other);
            await drop(page, ".zone >> nth=1", [{ name: "a.webp", bytes, type: "image/webp" }]);
            await page
                .locator(".notice.error", { hasText: "LoRAs that this server does not offer: wood, ink." })
                .waitFor();
            await page.locator(".notice.error", { hasText: "4 images that it was made from are not on" }).waitFor();
            same(await page.locator(".reference").count(), 0);
            await close(page);
        } finally {
            await one.stop("SIGKILL");
            await other.stop("SIGKILL");
        }
    },

    "half the size of a failed edit keeps picture, mask and canvas": async () => {
        const site = await Site.start(["--fake-fail", "huge=out_of_memory"]);
        try {
            const [source, mask] = [await kept(site, png(512, 384)), await kept(site, png(512, 384, [255, 255, 255]))];
            const edit = { prompt: "a huge boat", source, mask, outpaint: [64, 0, 0, 32], seed: 1 };
            await site.call("POST", "/api/v1/jobs", edit);
            const page = await open(site);
            await page.locator(".job.failed").getByRole("button", { name: "Half the size" }).click();
            await page.getByText("Only the painted part changes. The canvas is extended.").waitFor();
            await until("the smaller picture is there", async () => {
                const draft = await page.evaluate(() => JSON.parse(localStorage.getItem("dj-flux2.draft")));
                return draft.source.width === 256;
            });
            await page.getByLabel("Prompt", { exact: true }).fill("a boat");
            const { width, height, source: smaller } = await drawnAgain(page, site);
            same([width, height, smaller.outpaint], [288, 208, ["32", "0", "0", "16"]]);
            check(smaller.mask && smaller.mask !== mask, "the mask is smaller too");
            await cells(page).first().waitFor();
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "LoRAs with strengths, and four times the size": async () => {
        const site = await Site.start(FLAGS);
        try {
            const page = await open(site);
            await page.getByLabel("LoRAs").selectOption("ink");
            await page.getByLabel("LoRAs").selectOption("wood");
            await page.getByLabel("Strength: ink").fill("0.6");
            await page.getByLabel("Strength: wood").press("ArrowLeft");
            await page.getByLabel("Enlarge").selectOption("4");
            const sent = page.waitForRequest(SENT);
            await draw(page, "a fox");
            const json = (await sent).postDataJSON();
            same(json.loras, [
                { name: "ink", scale: 0.6 },
                { name: "wood", scale: 0.95 },
            ]);
            same(json.upscale, 4);
            await cells(page).first().waitFor();
            const [job] = (await site.call("GET", "/api/v1/jobs")).jobs;
            same([job.images[0].width, job.request.loras.length], [4 * job.request.width, 2]);
            await page.getByRole("button", { name: "Remove: ink" }).click();
            same((await drawnAgain(page, site)).loras, [{ name: "wood", scale: 0.95 }]);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "the order of references by dragging and by keyboard": async () => {
        const site = await Site.start();
        try {
            const page = await open(site);
            const files = ["a", "b", "c"].map((name, at) => ({
                name: `${name}.png`,
                mimeType: "image/png",
                buffer: png(64, 64, [80 * at, 0, 0]),
            }));
            await page.locator("#reference-files").setInputFiles(files);
            await page.locator(".reference").nth(2).waitFor();
            const order = async () => (await page.locator(".reference .one-line").allInnerTexts()).join("");
            const becomes = (expected) => until(expected, async () => (await order()) === expected);
            await page.locator(".reference").nth(2).dragTo(page.locator(".reference").nth(0));
            await becomes("c.pnga.pngb.png");
            await page.locator(".reference").nth(0).dragTo(page.locator(".reference").nth(1));
            await becomes("a.pngc.pngb.png");
            const back = page.locator(".reference").nth(0).getByRole("button", { name: "Move back" });
            await back.focus();
            await page.keyboard.press("Enter");
            await becomes("c.pnga.pngb.png");
            // The focus goes with the reference, so that pressing again moves it on.
            await page.keyboard.press("Enter");
            await becomes("c.pngb.pnga.png");
            await page.locator("[role=status]", { hasText: "Now image 3." }).waitFor({ state: "attached" });
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },
};
