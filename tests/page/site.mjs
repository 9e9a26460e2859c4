// Servers, browsers, and what the tests do with them.

import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { deflateSync, crc32 } from "node:zlib";
import { chromium } from "playwright-core";

export const [, , PROGRAM, FOLDER] = process.argv;

/** Slow machines and debug builds need it; nothing waits that long unless it fails. */
export const PATIENCE = 60_000;

/** A server of fake models, or of klein-mini. */
export class Site {
    /** @param {string[]} flags @param {{fake?: boolean, env?: Record<string, string>}} [options] */
    static async start(flags = [], { fake = true, env = {} } = {}) {
        const site = new Site();
        site.flags = flags;
        site.fake = fake;
        site.env = env;
        site.port = 0;
        await site.begin();
        return site;
    }

    async begin() {
        const backend = this.fake ? ["--backend", "fake", "-m", "klein-4b", "-m", "klein-base-4b"] : [];
        const keep = this.flags.includes("--state") ? [] : ["--no-journal"];
        const args = ["serve", ...backend, ...keep, "--port", String(this.port), "--log-format", "json", ...this.flags];
        const env = { PATH: process.env.PATH, HOME: tmpdir(), ...this.env };
        this.process = spawn(PROGRAM, args, { env, stdio: ["ignore", "ignore", "pipe"] });
        let log = "";
        const address = await new Promise((resolve, reject) => {
            this.process.stderr.on("data", (data) => {
                log += data;
                const found = log.match(/"address":"(http[^"]*)"/);
                if (found) resolve(found[1]);
            });
            this.process.on("exit", () => reject(new Error(`the server ended: ${log}`)));
        });
        this.base = address;
        this.port = Number(new URL(address).port);
        await until("the server is ready", async () => (await fetch(`${this.base}/ready`)).ok);
    }

    async stop(signal = "SIGTERM") {
        if (this.process.exitCode !== null || this.process.signalCode) return;
        const ended = new Promise((resolve) => this.process.once("exit", resolve));
        this.process.kill(signal);
        await ended;
    }

    /** @param {string} method @param {string} route @param {unknown} [json] */
    async call(method, route, json, headers = {}) {
        const body = json === undefined ? undefined : JSON.stringify(json);
        const all = { "content-type": "application/json", ...headers };
        const answer = await fetch(this.base + route, { method, headers: all, body });
        return answer.status === 204 ? null : answer.json();
    }

    /** Jobs that are done. @param {Record<string, unknown>[]} requests */
    async drawn(requests) {
        const made = [];
        for (const request of requests) {
            const seed = made.length + 1;
            const job = await this.call("POST", "/api/v1/jobs", { width: 256, height: 256, seed, ...request });
            if (!job.id) throw new Error(JSON.stringify(job));
            made.push(job);
        }
        for (const { id } of made) {
            let state = "";
            const isDone = async () => {
                state = (await this.call("GET", `/api/v1/jobs/${id}`)).state;
                return state === "done";
            };
            await until("a job is done", isDone).catch((error) => {
                throw new Error(`${error.message}: ${state}`);
            });
        }
        return made;
    }
}

/** A line to a server that can be cut. */
export class Line {
    #sockets = new Set();

    /** @param {Site} site */
    static async to(site) {
        const line = new Line();
        line.isCut = false;
        line.server = createServer((near) => {
            if (line.isCut) return near.destroy();
            const far = connect(site.port, "127.0.0.1");
            for (const socket of [near, far]) {
                line.#sockets.add(socket);
                socket.on("error", () => {});
                socket.on("close", () => [near, far].forEach((one) => one.destroy()));
            }
            near.pipe(far).pipe(near);
        });
        await new Promise((resolve) => line.server.listen(0, "127.0.0.1", resolve));
        line.base = `http://127.0.0.1:${line.server.address().port}`;
        return line;
    }

    cut() {
        this.isCut = true;
        for (const socket of this.#sockets) socket.destroy();
        this.#sockets.clear();
    }

    mend() {
        this.isCut = false;
    }

    close() {
        this.cut();
        this.server.close();
    }
}

/** Wait until something holds. @param {string} what @param {() => Promise<unknown>} holds */
export async function until(what, holds) {
    const end = Date.now() + PATIENCE;
    let last;
    while (Date.now() < end) {
        try {
            if (await holds()) return;
        } catch (error) {
            last = error;
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${what}: it never happened${last ? ` (${last})` : ""}`);
}

/** @type {import("playwright-core").Browser | undefined} */
let browser;

export async function launch() {
    const fonts = path.join(FOLDER, "fonts.conf");
    const alias = ["system-ui", "sans-serif"].map(
        (name) => `<match target="pattern"><test name="family"><string>${name}</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>`,
    );
    writeFileSync(
        fonts,
        `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><cachedir>${FOLDER}/font-cache</cachedir>${alias.join("\n")}</fontconfig>`,
    );
    const args = ["--no-sandbox", "--font-render-hinting=none", "--disable-lcd-text", "--force-color-profile=srgb"];
    const env = { ...process.env, FONTCONFIG_FILE: fonts };
    browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args, env });
    return browser;
}

/** The browser of all tests. */
export function launched() {
    if (!browser) throw new Error("no browser was started");
    return browser;
}

/**
 * A page of a new browser profile. Errors in it, and things that the policy refuses, fail the test.
 * @param {Site} site
 * @param {import("playwright-core").BrowserContextOptions & {path?: string, mayFail?: boolean}} [options]
 */
export async function open(site, { path: where = "/", mayFail = false, ...options } = {}) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, locale: "en-US", ...options });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    page.problems = [];
    page.on("pageerror", (error) => page.problems.push(String(error)));
    page.on("console", (message) => {
        const isNetwork = message.text().includes("Failed to load resource") || message.text().includes("net::ERR");
        if (message.type() === "error" && !isNetwork) page.problems.push(message.text());
    });
    page.mayFail = mayFail;
    await page.goto(site.base + where);
    await page.locator("html.started").waitFor();
    return page;
}

/** Close a page whose scripts must have had no errors. @param {any} page */
export async function close(page) {
    if (!page.mayFail && page.problems.length > 0) throw new Error(`errors in the page: ${page.problems.join("\n")}`);
    await page.unrouteAll({ behavior: "ignoreErrors" });
    await page.context().close();
}

/** Write a prompt and draw. @param {import("playwright-core").Page} page @param {string} prompt */
export async function draw(page, prompt) {
    await page.getByLabel("Prompt", { exact: true }).fill(prompt);
    await page.keyboard.press("Control+Enter");
}

/** Cells of the gallery. @param {import("playwright-core").Page} page */
export function cells(page) {
    return page.locator(".cell");
}

/** Scroll to the gallery, whose cells are there only near the screen. @param {import("playwright-core").Page} page */
export async function toGallery(page) {
    await page.locator("flux-gallery").evaluate((gallery) => gallery.scrollIntoView());
    await cells(page).first().waitFor();
}

/**
 * A PNG of one color, also of a size that nobody decodes.
 * @param {number} width @param {number} height @param {[number, number, number]} [color]
 */
export function png(width, height, color = [90, 120, 200], texts = {}) {
    const chunk = (kind, data) => {
        const head = Buffer.alloc(8);
        head.writeUInt32BE(data.length);
        head.write(kind, 4, "latin1");
        const tail = Buffer.alloc(4);
        tail.writeUInt32BE(crc32(Buffer.concat([head.subarray(4), data])));
        return Buffer.concat([head, data, tail]);
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(3 * width, Buffer.from(color))]);
    const isHuge = width * height > 1e8;
    const rows = isHuge ? Buffer.alloc((3 * width + 1) * height) : Buffer.concat(Array(height).fill(row));
    const parts = Object.entries(texts).map(([key, text]) => chunk("tEXt", Buffer.from(`${key}\0${text}`, "latin1")));
    const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);
    const data = chunk("IDAT", deflateSync(rows, { level: isHuge ? 1 : 6 }));
    return Buffer.concat([signature, chunk("IHDR", header), ...parts, data, chunk("IEND", Buffer.alloc(0))]);
}

/** Drop files on an element. @param {import("playwright-core").Page} page @param {string} selector */
export async function drop(page, selector, files) {
    const transfer = await page.evaluateHandle(
        (all) => {
            const data = new DataTransfer();
            for (const { name, type, bytes } of all) {
                data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type }));
            }
            return data;
        },
        files.map(({ name, bytes, type = "image/png" }) => ({ name, type, bytes: bytes.toString("base64") })),
    );
    await page.dispatchEvent("body", "dragenter", { dataTransfer: transfer });
    await page.dispatchEvent(selector, "drop", { dataTransfer: transfer });
}

export function temporary() {
    return mkdtempSync(path.join(tmpdir(), "dj-flux2-page-"));
}

/** @param {unknown} found @param {unknown} expected @param {string} [what] */
export function same(found, expected, what = "") {
    const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
    if (a !== b) throw new Error(`${what}: found ${a}, expected ${b}`);
}

/** @param {unknown} holds @param {string} what */
export function check(holds, what) {
    if (!holds) throw new Error(what);
}
