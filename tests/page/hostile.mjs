// Input that wants to be more than text, or more than fits.

import { check, close, draw, drop, open, png, same, Site, toGallery, until } from "./site.mjs";

const MARKUP = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"'\`</textarea>{{7*7}}`;

/** The policy of the page must have refused nothing: nothing asked for it. */
async function isUnharmed(page) {
    same(await page.evaluate(() => window.hacked ?? null), null, "a script ran");
    same(await page.locator("script[src=x], img[src=x]").count(), 0, "markup became elements");
    check((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, "it scrolls sideways");
}

export const tests = {
    async "markup in a prompt, a file name, and a failure"() {
        const site = await Site.start(["--fake-fail", "refused=out_of_memory"]);
        try {
            const page = await open(site);
            await draw(page, MARKUP);
            await page.locator(".cell").waitFor();
            same(await page.locator(".cell img").getAttribute("alt"), MARKUP);
            await page.locator(".cell .open").click();
            same(await page.locator(".prompt-text").innerText(), MARKUP);
            await page.keyboard.press("Escape");
            await page.locator("dialog[open]").waitFor({ state: "detached" });
            await draw(page, `refused ${MARKUP}`);
            await page.locator(".job.failed").waitFor();
            await drop(page, ".zone >> nth=0", [{ name: `${MARKUP}.png`, bytes: png(64, 64) }]);
            await page.locator(".reference", { hasText: "<script>" }).waitFor();
            await drop(page, ".zone >> nth=0", [
                { name: `${MARKUP}.svg`, bytes: Buffer.from(MARKUP), type: "image/svg+xml" },
            ]);
            await page.locator(".notice.error", { hasText: "is no PNG, JPEG or WebP image" }).waitFor();
            await page.getByRole("button", { name: "Earlier prompts" }).click();
            await page.getByLabel("Search prompts").fill(MARKUP);
            await isUnharmed(page);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "markup in the parameters of a picture"() {
        const site = await Site.start();
        try {
            const page = await open(site);
            const parameters = `${MARKUP}\nSteps: 4, Sampler: ${MARKUP}, Seed: 1, Size: 64x64, Model: ${MARKUP}`;
            await drop(page, ".zone >> nth=1", [{ name: "a.png", bytes: png(64, 64, [0, 0, 0], { parameters }) }]);
            await until("the prompt is there", async () =>
                (await page.getByLabel("Prompt", { exact: true }).inputValue()).includes("<img"),
            );
            await isUnharmed(page);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "images of 200 megapixels and broken ones are refused with a sentence"() {
        const site = await Site.start();
        try {
            const page = await open(site);
            const huge = png(20_000, 10_000);
            check(huge.length < 5 << 20, `${huge.length} bytes`);
            for (const zone of [0, 1]) {
                await drop(page, `.zone >> nth=${zone}`, [{ name: "huge.png", bytes: huge }]);
                await page
                    .locator(".notice.error", { hasText: /huge\.png: .*200000000|20000/ })
                    .first()
                    .waitFor();
                await page.locator(".notice").getByRole("button", { name: "Close" }).first().click();
            }
            for (const bytes of [Buffer.from("no image"), png(64, 64).subarray(0, 60), Buffer.alloc(0)]) {
                await drop(page, ".zone >> nth=0", [{ name: "broken.png", bytes }]);
                await page.locator(".notice.error", { hasText: "broken.png" }).last().waitFor();
                await page.locator(".notice").getByRole("button", { name: "Close" }).first().click();
            }
            same(await page.locator(".reference").count(), 0);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "10,000 characters without a space, and more than are allowed"() {
        const site = await Site.start();
        try {
            for (const width of [1440, 360]) {
                const page = await open(site, { viewport: { width, height: 800 } });
                await draw(page, "x".repeat(10_000));
                await page.locator(".job").waitFor({ state: "detached" });
                await toGallery(page);
                await page.locator(".cell .open").first().click();
                check(
                    (await page.evaluate(() => document.querySelector(".side").scrollWidth - innerWidth)) <= 0,
                    "too wide",
                );
                await page.keyboard.press("Escape");
                await isUnharmed(page);
                await page.getByLabel("Prompt", { exact: true }).fill("y".repeat(32_001));
                await page.locator(".help.error", { hasText: "32001 of 32000 characters" }).waitFor();
                await page.keyboard.press("Control+Enter");
                await page.locator(".problem", { hasText: "The prompt is too long." }).waitFor();
                await close(page);
            }
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "storage that holds nonsense"() {
        const site = await Site.start();
        try {
            const page = await open(site);
            await page.evaluate(() => {
                for (const name of ["draft", "settings", "history", "presets", "lists"]) {
                    localStorage.setItem(`dj-flux2.${name}`, "][");
                }
                localStorage.setItem("dj-flux2.theme", "<b>");
            });
            await page.reload();
            await draw(page, "still here");
            await page.locator(".cell").waitFor();
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    async "the policy allows no code but that of the server"() {
        const site = await Site.start();
        try {
            const page = await open(site, { mayFail: true });
            const policy = (await fetch(site.base)).headers.get("content-security-policy");
            check(policy.includes("default-src 'self'") && !policy.includes("unsafe"), policy);
            const ran = await page.evaluate(() => {
                const script = document.createElement("script");
                try {
                    script.textContent = "window.hacked = 1";
                } catch {
                    // Trusted types refuse it even earlier.
                }
                document.body.append(script);
                return window.hacked ?? null;
            });
            same(ran, null);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },
};
