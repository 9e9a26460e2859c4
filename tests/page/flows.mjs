// What people do from their first picture on, and what may go wrong.

import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { cells, check, close, draw, Line, open, png, same, Site, temporary, until } from "./site.mjs";

/** A test with a server and a page. */
function flow(flags, test, options = {}) {
    return async () => {
        const site = await Site.start(flags, options);
        try {
            const page = await open(site, options);
            await test(page, site);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

export const tests = {
    "the first picture": flow([], async (page) => {
        await page.getByText("Your pictures appear here").waitFor();
        await draw(page, "a red fox");
        await cells(page).first().waitFor();
        same(await page.locator(".cell img").first().getAttribute("alt"), "a red fox");
        await page.locator("[role=status]", { hasText: "Your picture is ready." }).waitFor({ state: "attached" });
        // The seed of it is shown, and the prompt is in the history.
        check(/^\d+$/.test(await page.getByLabel("Seed", { exact: true }).inputValue()), "the seed is shown");
        await page.getByRole("button", { name: "Earlier prompts" }).click();
        await page.getByRole("button", { name: "a red fox", exact: true }).first().waitFor();
    }),

    "time, size and memory are predicted while typing": flow([], async (page) => {
        await page.getByLabel("Prompt", { exact: true }).fill("a fox");
        await page.locator(".takes", { hasText: /s · up to .* of memory/ }).waitFor();
        await page.getByRole("radio", { name: "3:2" }).click();
        await page.locator(".size-shown", { hasText: /624 × 416 · 0.3 megapixels/ }).waitFor();
        await page.getByRole("radio", { name: "Free" }).click();
        await page.getByLabel("Width", { exact: true }).fill("1000");
        await page.getByLabel("Width", { exact: true }).blur();
        same(await page.getByLabel("Width", { exact: true }).inputValue(), "1008", "the next multiple of 16");
    }),

    "steps and guidance are offered where the model has them": flow([], async (page) => {
        same(await page.getByLabel("Guidance").count(), 0, "a distilled model");
        await page.getByLabel("Model").first().selectOption("klein-base-4b");
        await page.getByLabel("Guidance").waitFor();
        await page.getByLabel("Guidance").fill("3.5");
        const sent = page.waitForRequest(
            (request) => request.url().endsWith("/api/v1/jobs") && request.method() === "POST",
        );
        await draw(page, "a fox");
        const json = (await sent).postDataJSON();
        same([json.model, json.guidance], ["klein-base-4b", 3.5]);
    }),

    "edit with two references, in the order of the page": flow([], async (page, site) => {
        const [red, blue] = [png(96, 64, [200, 0, 0]), png(64, 96, [0, 0, 200])];
        await page.locator("#reference-files").setInputFiles([
            { name: "red.png", mimeType: "image/png", buffer: red },
            { name: "blue.png", mimeType: "image/png", buffer: blue },
        ]);
        await page.locator(".references .reference").nth(1).waitFor();
        await page.getByText("used as 96 × 64").waitFor();
        await page.getByRole("radio", { name: "As image 1" }).click();
        // The second becomes the first, by keyboard.
        await page.locator(".reference").nth(1).getByRole("button", { name: "Move forward" }).focus();
        await page.keyboard.press("Enter");
        await draw(page, "image 2 in the colors of image 1");
        await cells(page).first().waitFor();
        const { jobs } = await site.call("GET", "/api/v1/jobs");
        const digests = [blue, red].map((bytes) => createHash("sha256").update(bytes).digest("hex"));
        same(jobs[0].request.references, digests);
        same([jobs[0].request.width, jobs[0].request.height], [64, 96], "the size of the first reference");
    }),

    "a mask and a larger canvas are sent as files": flow([], async (page, site) => {
        await page
            .locator("#reference-files")
            .setInputFiles({ name: "a.png", mimeType: "image/png", buffer: png(256, 192) });
        await page.getByRole("button", { name: "Edit a part" }).click();
        await page.getByRole("dialog", { name: "Edit a part of the picture" }).waitFor();
        const box = await page.locator(".paper canvas").boundingBox();
        await page.mouse.move(box.x + box.width / 4, box.y + box.height / 2);
        await page.mouse.down();
        await page.mouse.move(box.x + (3 * box.width) / 4, box.y + box.height / 2, { steps: 5 });
        await page.mouse.up();
        await page.getByLabel("Left", { exact: true }).fill("64");
        await page.getByLabel("Left", { exact: true }).blur();
        await page.getByRole("button", { name: "Use this" }).click();
        await page.getByText("Only the painted part changes. The canvas is extended.").waitFor();
        const sent = page.waitForRequest(
            (request) => request.url().endsWith("/api/v1/jobs") && request.method() === "POST",
        );
        await draw(page, "a boat");
        const json = (await sent).postDataJSON();
        same([json.mask.length, json.source.length, json.outpaint, json.feather], [64, 64, [64, 0, 0, 0], 8]);
        check(json.width === undefined, "the size is that of the source");
        const mask = Buffer.from(await (await fetch(`${site.base}/api/v1/uploads/${json.mask}/image`)).arrayBuffer());
        const colors = await page.evaluate(async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
            const canvas = new OffscreenCanvas(image.width, image.height);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const at = (x, y) => [...context.getImageData(x, y, 1, 1).data];
            return { size: [image.width, image.height], middle: at(128, 96), corner: at(2, 2) };
        }, mask.toString("base64"));
        same(colors, { size: [256, 192], middle: [255, 255, 255, 255], corner: [0, 0, 0, 255] });
        // What is drawn has the size of the larger canvas, and is drawn once more from its own request.
        await cells(page).first().waitFor();
        await cells(page).first().click();
        await page.getByRole("dialog").getByRole("button", { name: "Run again" }).click();
        await until("a second job", async () => (await site.call("GET", "/api/v1/jobs")).jobs.length === 2);
        const { jobs } = await site.call("GET", "/api/v1/jobs");
        same(jobs[0].request, jobs[1].request);
        same(jobs[0].request.source.outpaint, ["64", "0", "0", "0"]);
    }),

    "a mask by keyboard": flow([], async (page) => {
        await page
            .locator("#reference-files")
            .setInputFiles({ name: "a.png", mimeType: "image/png", buffer: png(256, 192) });
        await page.getByRole("button", { name: "Edit a part" }).click();
        await page.getByRole("application").waitFor();
        for (const key of ["ArrowRight", "Space", "i", "Control+z", "e", "b", "]"]) await page.keyboard.press(key);
        await page.getByRole("button", { name: "Use this" }).press("Enter");
        await page.getByText("Only the painted part changes.").waitFor();
    }),

    "several jobs: progress, places, cancelling both kinds": flow(["--fake-step-ms", "2500"], async (page) => {
        for (const prompt of ["first", "second", "third"]) await draw(page, prompt);
        await page.locator(".job.running", { hasText: "first" }).waitFor();
        await page.locator(".job.queued", { hasText: "third" }).getByText("Number 2 in the queue").waitFor();
        await page.locator(".job.running", { hasText: /step \d of 4/ }).waitFor();
        const bar = page.locator(".job.running [role=progressbar]");
        check(Number(await bar.getAttribute("aria-valuenow")) > 0, "the progress has a value");
        same(await bar.getAttribute("aria-label"), "Progress of “first”");
        await page.locator(".job.queued", { hasText: "third" }).getByRole("button", { name: "Cancel" }).click();
        await page.locator(".job", { hasText: "third" }).waitFor({ state: "detached" });
        await page.locator(".job.running").getByRole("button", { name: "Cancel" }).click();
        await page.locator(".job", { hasText: "first" }).waitFor({ state: "detached" });
        await cells(page).first().waitFor();
        same(await page.locator(".cell img").first().getAttribute("alt"), "second");
        same(await cells(page).count(), 1);
    }),

    "previews while drawing": flow(["--fake-step-ms", "1500"], async (page) => {
        await draw(page, "a slow fox");
        const preview = page.locator(".job.running .frame img");
        await preview.waitFor();
        const shown = () => preview.getAttribute("src");
        const first = await shown();
        check(/^data:image\/(png|jpeg);base64,/.test(first), first);
        check(await preview.evaluate((image) => image.decode().then(() => image.naturalWidth > 0)), "it is an image");
        await until("the preview of another step", async () => (await shown()) !== first);
        await page.locator(".job.running", { hasText: /left/ }).waitFor();
        await cells(page).first().waitFor();
    }),

    async "a connection that is lost in the middle of a job"() {
        const site = await Site.start(["--fake-step-ms", "5000"]);
        const line = await Line.to(site);
        try {
            const page = await open(line, { mayFail: true });
            const resumed = [];
            page.on("request", (request) => {
                if (request.url().endsWith("/events")) resumed.push(request.headers()["last-event-id"]);
            });
            await draw(page, "a slow fox");
            await page.locator(".job.running", { hasText: "step 1 of 4" }).waitFor();
            line.cut();
            await page.getByText("The server does not answer.").waitFor();
            await page.locator(".job.running", { hasText: "a slow fox" }).waitFor();
            line.mend();
            await page.locator(".state", { hasText: "1 job" }).waitFor();
            await page.locator(".job.running", { hasText: /step [234] of 4/ }).waitFor();
            await cells(page).first().waitFor();
            same(await page.locator(".job").count(), 0);
            check(resumed.length >= 2 && Number(resumed.at(-1)) > 1, `events go on where they were: ${resumed}`);
            await close(page);
        } finally {
            line.close();
            await site.stop("SIGKILL");
        }
    },

    "a reload in the middle of a job": flow(["--fake-step-ms", "2500"], async (page) => {
        await draw(page, "a slow fox");
        await page.locator(".job.running", { hasText: /step \d of 4/ }).waitFor();
        await page.reload();
        await page.locator(".job.running", { hasText: "a slow fox" }).waitFor();
        same(await page.getByLabel("Prompt", { exact: true }).inputValue(), "a slow fox", "the draft is kept");
        await cells(page).first().waitFor();
        same(await page.locator(".job").count(), 0);
    }),

    async "a restart of the server in the middle of a job"() {
        const site = await Site.start(["--state", temporary(), "--fake-step-ms", "500"]);
        try {
            const page = await open(site, { mayFail: true });
            await draw(page, "a fox that stays");
            await page.locator(".job.running", { hasText: /step \d of 4/ }).waitFor();
            await site.stop("SIGKILL");
            await page.getByText("The server does not answer.").waitFor();
            await page.locator(".state", { hasText: "No answer" }).waitFor();
            await site.begin();
            await page.locator(".state", { hasText: /Ready|1 job/ }).waitFor();
            await cells(page).first().waitFor();
            same(await page.locator(".cell img").first().getAttribute("alt"), "a fox that stays");
            same(await page.locator(".job").count(), 0, "it is drawn again, and once");
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "a full queue": flow(["--fake-step-ms", "2000", "--max-queue", "1"], async (page) => {
        await draw(page, "one");
        await page.locator(".job.running").waitFor();
        await draw(page, "two");
        await page.locator(".job.queued").waitFor();
        await draw(page, "three");
        await page.locator(".problem", { hasText: "The queue is full." }).waitFor();
        await page.getByRole("button", { name: /Try again in \d+ s/ }).waitFor();
        await page.getByRole("button", { name: "Try again", exact: true }).click();
        await page.locator(".cell img[alt=three]").waitFor();
        check(!(await page.locator(".problem").innerText()), "the problem is gone");
    }),

    "too little memory": flow(["--fake-fail", "huge=out_of_memory"], async (page) => {
        await draw(page, "a huge fox");
        const job = page.locator(".job.failed");
        await job.getByText("There is not enough memory for this picture.").waitFor();
        await job.getByRole("button", { name: "Half the size" }).click();
        await page.locator(".job").waitFor({ state: "detached" });
        same(
            [
                await page.getByLabel("Width", { exact: true }).inputValue(),
                await page.getByLabel("Height", { exact: true }).inputValue(),
            ],
            ["256", "256"],
        );
    }),

    "a crash says so, and the next picture is drawn": flow(["--fake-fail", "boom=crashed"], async (page) => {
        await draw(page, "boom");
        await page.locator(".job.failed .error").waitFor();
        await draw(page, "fine");
        await page.locator(".cell img[alt=fine]").waitFor();
        await page.reload();
        await page.locator(".job.failed .error").waitFor();
        await page.getByRole("button", { name: "Dismiss" }).click();
        same(await page.locator(".job").count(), 0);
        await page.reload();
        await page.locator(".cell").waitFor();
        same(await page.locator(".job").count(), 0, "dismissed for good");
    }),

    async "a key is asked for, kept, and in no address"() {
        const keys = path.join(temporary(), "keys");
        writeFileSync(keys, `alice ${createHash("sha256").update("s3cret").digest("hex")}\n`);
        const site = await Site.start(["--api-key-file", keys]);
        try {
            const page = await open(site);
            const addresses = [];
            page.on("request", (request) => addresses.push(request.url()));
            const dialog = page.getByRole("dialog", { name: "This server needs a key" });
            await dialog.waitFor();
            await dialog.getByLabel("API key").fill("wrong");
            await page.keyboard.press("Enter");
            await dialog.getByText("The server does not know this key.").waitFor();
            await dialog.getByLabel("API key").fill("s3cret");
            await page.keyboard.press("Enter");
            await dialog.waitFor({ state: "hidden" });
            await draw(page, "a secret fox");
            await page.locator(".cell img.loaded").waitFor();
            await page.reload();
            await page.locator(".cell img.loaded").waitFor();
            await page.locator(".cell .open").click();
            await page.locator("dialog .whole").first().waitFor();
            check(
                addresses.every((address) => !address.includes("s3cret")),
                "the key is in an address",
            );
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "offline and back": flow(
        [],
        async (page) => {
            await page.context().setOffline(true);
            await draw(page, "nobody hears");
            await page.locator(".problem", { hasText: "The server does not answer." }).waitFor();
            await page.context().setOffline(false);
            await page.locator(".state", { hasText: "Ready" }).waitFor();
            await page.getByRole("button", { name: "Draw" }).click();
            await page.locator(".cell img[alt='nobody hears']").waitFor();
        },
        { mayFail: true },
    ),

    "two tabs agree": flow(["--fake-step-ms", "300"], async (page) => {
        const other = await page.context().newPage();
        await other.goto(page.url());
        await other.locator("html.started").waitFor();
        await draw(page, "for both");
        await other.locator(".job", { hasText: "for both" }).waitFor();
        await other.locator(".cell").waitFor();
        await page.locator(".cell").waitFor();
        await page.locator(".cell .star").click();
        await other.locator(".cell .star[aria-pressed=true]").waitFor();
    }),

    "wildcards give each picture its own prompt": flow([], async (page, site) => {
        await page.getByLabel("Seed", { exact: true }).fill("5");
        await page.getByLabel("Pictures", { exact: true }).first().fill("4");
        await draw(page, "a {red|green|blue} __animal__");
        await until("four jobs", async () => (await site.call("GET", "/api/v1/jobs")).jobs.length === 4);
        const prompts = (await site.call("GET", "/api/v1/jobs")).jobs.map((job) => job.request.prompt);
        check(
            prompts.every((prompt) => /^a (red|green|blue) [a-z ]+$/.test(prompt)),
            prompts.join(),
        );
        check(new Set(prompts).size > 1, "not all are the same");
        // The same seed gives the same prompts.
        await page.getByRole("button", { name: "Draw 4" }).click();
        await until("eight jobs", async () => (await site.call("GET", "/api/v1/jobs")).jobs.length === 8);
        const again = (await site.call("GET", "/api/v1/jobs")).jobs.map((job) => job.request.prompt);
        same(again.slice(0, 4), prompts);
        // Switched off, the braces are the prompt.
        await page.getByRole("button", { name: "Wildcards", exact: true, pressed: true }).click();
        await page.getByRole("button", { name: "Draw 4" }).click();
        await until("nine jobs", async () => (await site.call("GET", "/api/v1/jobs")).jobs.length === 9);
        same((await site.call("GET", "/api/v1/jobs")).jobs[0].request.prompt, "a {red|green|blue} __animal__");
    }),

    "templates and presets": flow([], async (page) => {
        await page.getByLabel("Prompt", { exact: true }).fill("a lighthouse");
        await page.getByRole("button", { name: "Templates" }).click();
        await page.getByRole("button", { name: "Watercolor", exact: true }).click();
        check(
            (await page.getByLabel("Prompt", { exact: true }).inputValue()).startsWith(
                "A watercolor painting of a lighthouse",
            ),
        );
        await page.getByRole("button", { name: "Landscape" }).click();
        await page.locator(".size-shown", { hasText: "624 × 416" }).waitFor();
        await page.getByLabel("Name of the preset").fill("mine");
        await page.getByRole("button", { name: "Save these settings" }).click();
        await page.getByRole("button", { name: "Standard" }).click();
        await page.locator(".size-shown", { hasText: "512 × 512" }).waitFor();
        await page.reload();
        await page.getByRole("button", { name: "mine", exact: true }).click();
        await page.locator(".size-shown", { hasText: "624 × 416" }).waitFor();
    }),

    "nothing moves for those who want it so": flow(
        ["--fake-step-ms", "2000"],
        async (page) => {
            await draw(page, "a slow fox");
            await page.locator(".job.running").waitFor();
            const moving = await page.evaluate(() => {
                const all = [...document.querySelectorAll("*")];
                const styles = all.flatMap((one) => [getComputedStyle(one), getComputedStyle(one, "::before")]);
                const moves = (one) => one.animationName !== "none" || !/^(0s(, )?)+$/.test(one.transitionDuration);
                return styles.filter(moves).length;
            });
            same(moving, 0);
        },
        { reducedMotion: "reduce" },
    ),

    "a large screen is used": flow(
        [],
        async (page, site) => {
            await site.drawn(Array.from({ length: 30 }, (_, at) => ({ prompt: `number ${at}` })));
            await cells(page).nth(29).waitFor();
            const boxes = await cells(page).evaluateAll((all) =>
                all.map((one) => one.getBoundingClientRect().toJSON()),
            );
            const right = Math.max(...boxes.map((box) => box.right));
            check(right > 3840 - 64, `the gallery ends at ${right}`);
            check(boxes[0].width > 220, `cells of ${boxes[0].width} pixels`);
            const px = await page.evaluate(() => parseFloat(getComputedStyle(document.body).fontSize));
            check(px >= 18, `letters of ${px} pixels`);
            check(
                (await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0,
                "it scrolls sideways",
            );
        },
        { viewport: { width: 3840, height: 2160 } },
    ),
};
