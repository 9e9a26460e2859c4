// Screenshots of the main states, compared with those that somebody looked at. UPDATE=1 writes them again.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import pixelmatch from "pixelmatch";
import { PNG } from "pngjs";
import { check, close, draw, FOLDER, open, png, Site } from "./site.mjs";

const SCREENS = "tests/page/screens";
/** Part of the pixels that may differ: another version of the browser draws letters slightly differently. */
const MOST = 0.015;
const WIDE = { width: 1440, height: 900 };
const LARGE = { width: 3840, height: 2160 };
const NARROW = { width: 360, height: 800 };

const PROMPTS = ["a red fox in the snow", "an owl at night", "a lighthouse", "two boats", "a hedgehog", "a green door"];

/** Compare what a page shows with the committed screenshot. */
async function compare(page, name) {
    // What depends on the day and on the speed of the machine.
    await page.evaluate(() => {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(
            `.takes, dd { color: transparent !important; }
            * { animation: none !important; transition: none !important; caret-color: transparent !important; }`,
        );
        document.adoptedStyleSheets = [sheet];
    });
    await page.waitForTimeout(300);
    const bytes = await page.screenshot();
    const file = path.join(SCREENS, `${name}.png`);
    if (process.env.UPDATE === "1") {
        const image = PNG.sync.read(bytes);
        // Fewer colors make smaller files; the comparison does not see the difference.
        for (let at = 0; at < image.data.length; at += 1) image.data[at] &= 0xf8;
        writeFileSync(file, PNG.sync.write(image, { colorType: 2, deflateLevel: 9 }));
        return;
    }
    check(existsSync(file), `${file} is missing: run with UPDATE=1 and look at it`);
    const [expected, found] = [PNG.sync.read(readFileSync(file)), PNG.sync.read(bytes)];
    const { width, height } = expected;
    check(
        width === found.width && height === found.height,
        `${found.width}x${found.height}, expected ${width}x${height}`,
    );
    const difference = new PNG({ width, height });
    const count = pixelmatch(expected.data, found.data, difference.data, width, height, { threshold: 0.15 });
    const part = count / (width * height);
    if (part <= MOST) return;
    const folder = path.join(FOLDER, "screens");
    mkdirSync(folder, { recursive: true });
    writeFileSync(path.join(folder, `${name}.png`), bytes);
    writeFileSync(path.join(folder, `${name}-difference.png`), PNG.sync.write(difference));
    throw new Error(`${(100 * part).toFixed(2)} % of the pixels differ: see ${folder}/${name}*.png`);
}

/** A state of the page, at half the pixels so that the files are small. */
function screen(
    name,
    { viewport = WIDE, colorScheme = "light", flags = [], drawn = true, locale = "en-US" },
    prepare = async () => {},
) {
    return async () => {
        const site = await Site.start(flags);
        try {
            if (drawn) await site.drawn(PROMPTS.map((prompt) => ({ prompt })));
            const isTouch = viewport === NARROW;
            const deviceScaleFactor = isTouch ? 1 : viewport === LARGE ? 0.25 : 0.5;
            const page = await open(site, { viewport, colorScheme, deviceScaleFactor, hasTouch: isTouch, locale });
            await page.locator(drawn ? `.cell img.loaded >> nth=${isTouch ? 1 : 5}` : ".empty h3").waitFor();
            await prepare(page);
            await compare(page, name);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

const reference = async (page) => {
    const files = [
        { name: "red.png", mimeType: "image/png", buffer: png(96, 64, [190, 60, 50]) },
        { name: "blue.png", mimeType: "image/png", buffer: png(64, 96, [50, 80, 180]) },
    ];
    await page.locator("#reference-files").setInputFiles(files);
    await page.locator(".references img >> nth=1").waitFor();
};
const features = async (page) => {
    await page.route("**/api/v1/capabilities", async (route) => {
        const response = await route.fetch();
        const json = await response.json();
        Object.assign(json.features, { masks: true, outpaint: true });
        await route.fulfill({ response, json });
    });
    await page.reload();
    await page.locator(".cell img.loaded >> nth=5").waitFor();
};
const slow = ["--fake-step-ms", "4000"];
const fill = (page) => page.getByLabel("Prompt", { exact: true }).fill("a red fox in the snow, morning light");

export const tests = {
    "empty, light": screen("empty", { drawn: false }),
    "gallery, light": screen("gallery", {}, fill),
    "gallery, dark": screen("gallery-dark", { colorScheme: "dark" }, fill),
    "gallery, 360 px": screen("narrow", { viewport: NARROW }, fill),
    "gallery, 360 px, dark, scrolled": screen("narrow-dark", { viewport: NARROW, colorScheme: "dark" }, (page) =>
        page.locator(".gallery-head").scrollIntoViewIfNeeded(),
    ),
    "gallery, 4K": screen("large", { viewport: LARGE }, fill),
    "German, 360 px, settings": screen("narrow-german", { viewport: NARROW, locale: "de-DE" }, async (page) => {
        await page.getByText("Größe und Einstellungen").click();
        await page.locator("flux-options").scrollIntoViewIfNeeded();
        await page.locator("flux-options").evaluate((options) => options.scrollIntoView());
    }),
    "editor, 360 px": screen("editor-narrow", { viewport: NARROW, colorScheme: "dark" }, async (page) => {
        await page.locator(".cell .open").nth(1).click();
        await page.getByRole("button", { name: "Edit a part" }).click();
        await page.locator(".paper canvas").waitFor();
    }),
    jobs: screen("jobs", { drawn: false, flags: slow }, async (page) => {
        for (const prompt of PROMPTS.slice(0, 3)) await draw(page, prompt);
        await page.locator(".job.queued >> nth=1").waitFor();
        // How far the first one is depends on the speed of the machine.
        await page.evaluate(() => {
            for (const one of document.querySelectorAll(".job .help, .bar")) one.classList.add("unseen");
        });
    }),
    failure: screen("failure", { flags: ["--fake-fail", "huge=out_of_memory"], colorScheme: "dark" }, async (page) => {
        await draw(page, "a huge fox");
        await page.locator(".job.failed").waitFor();
    }),
    references: screen("references", {}, async (page) => {
        await reference(page);
        await fill(page);
    }),
    picture: screen("picture", {}, async (page) => {
        await page.locator(".cell .open").nth(1).click();
        await page.locator("dialog .whole").first().waitFor();
    }),
    "picture, 360 px": screen("picture-narrow", { viewport: NARROW, colorScheme: "dark" }, async (page) => {
        await page.locator(".cell .open").nth(1).click();
        await page.locator("dialog .whole").first().waitFor();
    }),
    editor: screen("editor", {}, async (page) => {
        await features(page);
        await page.locator(".cell .open").nth(2).click();
        await page.getByRole("button", { name: "Edit a part" }).click();
        await page.getByRole("application").waitFor();
        await page.getByLabel("Left", { exact: true }).fill("64");
        await page.getByLabel("Left", { exact: true }).blur();
        const box = await page.locator(".paper canvas").boundingBox();
        await page.mouse.move(box.x + box.width * 0.3, box.y + box.height * 0.4);
        await page.mouse.down();
        await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.6, { steps: 8 });
        await page.mouse.up();
    }),
};
