// The editor of masks: zoom and pan with mouse, touch, keys and buttons; the mask stays; the canvas is extended.

import { cells, check, close, draw, open, png, same, Site, until } from "./site.mjs";
import { kept } from "./settings.mjs";

const REFERENCE = { name: "a.png", mimeType: "image/png", buffer: png(256, 192) };

/** A test with a page whose editor is open. */
function editor(test, options = {}) {
    return async () => {
        const site = await Site.start();
        try {
            const page = await open(site, options);
            await page.locator("#reference-files").setInputFiles(REFERENCE);
            await reopen(page);
            await test(page, site);
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    };
}

async function reopen(page) {
    await page.getByRole("button", { name: "Edit a part" }).first().click();
    await page.getByRole("dialog", { name: "Edit a part of the picture" }).waitFor();
    await page.locator(".paper canvas").waitFor();
}

/** Scale and place of what is shown. */
async function view(page) {
    const { scale, x, y } = await page.locator("flux-canvas .content").evaluate((content) => {
        const [, x, y, scale] = content.style.transform.match(/translate\((.*)px, (.*)px\) scale\((.*)\)/) ?? [];
        return { x: Number(x), y: Number(y), scale: Number(scale) };
    });
    return { x: Math.round(x), y: Math.round(y), scale: Number(scale.toFixed(2)) };
}

/** How much of the mask is painted. */
function painted(page) {
    return page.locator(".paper canvas").evaluate((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 3; at < data.length; at += 4) count += data[at] > 127 ? 1 : 0;
        return count;
    });
}

/** Fingers that move from one place to another. */
async function touch(page, from, to) {
    const session = await page.context().newCDPSession(page);
    const points = (part) =>
        from.map(([x, y], id) => ({ id, x: x + (to[id][0] - x) * part, y: y + (to[id][1] - y) * part }));
    // One after the other, as fingers come down.
    for (let count = 1; count <= from.length; count += 1) {
        await session.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: points(0).slice(0, count) });
    }
    for (let step = 1; step <= 5; step += 1) {
        await session.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: points(step / 5) });
    }
    await session.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await session.detach();
}

export const tests = {
    "zoom and pan with buttons, keys and mouse": editor(async (page) => {
        const dialog = page.getByRole("dialog");
        await dialog.getByRole("button", { name: "Zoom in" }).click();
        same(await view(page), { x: 0, y: 0, scale: 1.5 });
        await dialog.getByRole("button", { name: "Fit to the window" }).click();
        same((await view(page)).scale, 1);
        await page.getByRole("application").focus();
        await page.keyboard.press("+");
        await page.keyboard.press("+");
        // The arrows move the brush until the tool is another one.
        await page.keyboard.press("ArrowLeft");
        same((await view(page)).x, 0);
        await page.keyboard.press("h");
        await page.keyboard.press("ArrowLeft");
        await page.keyboard.press("ArrowUp");
        same(await view(page), { x: 60, y: 60, scale: 2.25 });
        const box = await page.getByRole("application").boundingBox();
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        await page.mouse.move(x, y);
        await page.mouse.down();
        await page.mouse.move(x - 100, y - 80, { steps: 4 });
        await page.mouse.up();
        same(await view(page), { x: -40, y: -20, scale: 2.25 });
        same(await painted(page), 0, "moving paints nothing");
        await page.keyboard.press("b");
        // With the brush, a double click paints, and the middle button moves.
        await page.mouse.dblclick(x, y);
        same((await view(page)).scale, 2.25);
        check((await painted(page)) > 0, "painted");
        await page.mouse.move(x, y);
        await page.mouse.down({ button: "middle" });
        await page.mouse.move(x + 40, y, { steps: 4 });
        await page.mouse.up({ button: "middle" });
        same((await view(page)).x, 0);
        await page.mouse.wheel(0, -400);
        check((await view(page)).scale > 3, "the wheel zooms");
    }),

    "what the keys paint is on the screen": editor(async (page) => {
        await page.getByRole("application").focus();
        for (let press = 0; press < 6; press += 1) await page.keyboard.press("+");
        for (let press = 0; press < 30; press += 1) await page.keyboard.press("ArrowLeft");
        const [cursor, frame] = await Promise.all([
            page.locator(".cursor").boundingBox(),
            page.getByRole("application").boundingBox(),
        ]);
        const middle = cursor.x + cursor.width / 2;
        check(middle >= frame.x && middle <= frame.x + frame.width, `the brush is at ${middle}`);
        await page.keyboard.press("Space");
        check((await painted(page)) > 0, "painted");
    }),

    "one finger paints, two zoom and move": editor(
        async (page) => {
            const box = await page.locator(".paper canvas").boundingBox();
            const at = (x, y) => [box.x + box.width * x, box.y + box.height * y];
            await touch(page, [at(0.3, 0.5)], [at(0.7, 0.5)]);
            const stroke = await painted(page);
            check(stroke > 0, "painted");
            await touch(page, [at(0.4, 0.5), at(0.6, 0.5)], [at(0.2, 0.5), at(0.8, 0.5)]);
            const { scale } = await view(page);
            check(scale > 2, `two fingers zoom: ${scale}`);
            // Drawn anew, the edge of a stroke may differ by a pixel.
            const isStroke = async () => Math.abs((await painted(page)) - stroke) < 10;
            check(await isStroke(), "two fingers paint nothing");
            await touch(page, [at(0.4, 0.5), at(0.6, 0.5)], [at(0.5, 0.6), at(0.7, 0.6)]);
            const moved = await view(page);
            check(moved.x > 0 && moved.y > 0, "two fingers move");
            // A tap so soon after a gesture of two fingers is taken for a part of it.
            await page.getByRole("button", { name: "Move", exact: true }).click();
            await touch(page, [at(0.6, 0.6)], [at(0.4, 0.4)]);
            await until("one finger moves with this tool", async () => (await view(page)).x < moved.x);
            check(await isStroke(), "and paints nothing");
        },
        { hasTouch: true, viewport: { width: 360, height: 800 } },
    ),

    "the mask is there when the editor is opened again": editor(async (page) => {
        const dialog = page.getByRole("dialog");
        const box = await page.locator(".paper canvas").boundingBox();
        await page.mouse.move(box.x + box.width / 4, box.y + box.height / 2);
        await page.mouse.down();
        await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2, { steps: 4 });
        await page.mouse.up();
        const stroke = await painted(page);
        // Closed without using it: nothing is lost.
        await page.keyboard.press("Escape");
        await dialog.waitFor({ state: "hidden" });
        await reopen(page);
        same(await painted(page), stroke);
        await dialog.getByLabel("Right", { exact: true }).fill("64");
        await dialog.getByLabel("Right", { exact: true }).blur();
        await dialog.getByRole("button", { name: "Use this" }).click();
        await page.getByText("Only the painted part changes. The canvas is extended.").waitFor();
        await page.reload();
        await reopen(page);
        same(await painted(page), stroke, "after a reload");
        same(await dialog.getByLabel("Right", { exact: true }).inputValue(), "64");
        // It can be changed and taken back.
        await dialog.getByRole("button", { name: "Invert the mask" }).click();
        same(await painted(page), 256 * 192 - stroke);
        await dialog.getByRole("button", { name: "Undo" }).click();
        same(await painted(page), stroke);
        await page.keyboard.press("Escape");
        // Removed, the picture begins anew.
        await page.getByRole("button", { name: "Remove", exact: true }).click();
        await reopen(page);
        same(await painted(page), 0);
    }),

    "a handle at the edge extends the canvas, also by a finger": editor(
        async (page) => {
            const handle = await page.locator(".edge.right").boundingBox();
            check(handle.width >= 44 && handle.height >= 44, `${handle.width} x ${handle.height}`);
            // At its outer end, where the bar is not.
            const from = [handle.x + handle.width - 6, handle.y + handle.height / 2];
            await touch(page, [from], [[from[0] + 60, from[1]]]);
            const px = Number(await page.getByRole("dialog").getByLabel("Right", { exact: true }).inputValue());
            check(px > 0 && px % 16 === 0, `${px}`);
            same(await painted(page), 0, "it is no stroke");
        },
        { hasTouch: true, viewport: { width: 360, height: 800 } },
    ),

    async "the source of an edit is beside its result"() {
        const site = await Site.start();
        try {
            const [source, mask] = [await kept(site, png(128, 96)), await kept(site, png(128, 96, [255, 255, 255]))];
            const edits = [
                { prompt: "masked", source, mask },
                { prompt: "extended", source, outpaint: "50%,0,16,32" },
            ];
            await site.drawn(edits.map((edit) => ({ ...edit, width: undefined, height: undefined })));
            const page = await open(site);
            await cells(page).nth(1).waitFor();
            for (const [prompt, size] of [
                ["masked", [128, 96]],
                ["extended", [208, 128]],
            ]) {
                await page.locator(".cell .open", { has: page.getByAltText(prompt) }).click();
                await page.getByRole("button", { name: "Compare", exact: true }).click();
                same(await page.getByLabel("Compare with").locator("option").first().innerText(), "Picture to change");
                const over = page.locator("img.over");
                const shown = () => over.evaluate((image) => [image.naturalWidth, image.naturalHeight]);
                await until("the source is shown", async () => JSON.stringify(await shown()) === JSON.stringify(size));
                if (prompt === "extended") {
                    // It lies where it was: the new pixels at its left are transparent.
                    const alpha = await over.evaluate((image) => {
                        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                        const context = canvas.getContext("2d");
                        context.drawImage(image, 0, 0);
                        return [63, 64, 191, 192].map((x) => context.getImageData(x, 10, 1, 1).data[3]);
                    });
                    same(alpha, [0, 255, 255, 0]);
                }
                await page.keyboard.press("Escape");
                await page.locator("dialog[open]").waitFor({ state: "detached" });
            }
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },

    "a canvas that is extended is drawn": editor(async (page, site) => {
        const dialog = page.getByRole("dialog");
        await dialog.getByLabel("Top", { exact: true }).fill("50");
        await dialog.getByLabel("Top", { exact: true }).blur();
        same(await dialog.getByLabel("Top", { exact: true }).inputValue(), "48", "a multiple of 16");
        await dialog.getByRole("button", { name: "Use this" }).click();
        await draw(page, "a sky");
        await cells(page).first().waitFor();
        const [{ request }] = (await site.call("GET", "/api/v1/jobs")).jobs;
        same([request.width, request.height, request.source.mask], [256, 240, null]);
    }),
};
