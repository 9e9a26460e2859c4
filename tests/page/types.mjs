// Types and form of the sources.

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { check, FOLDER, same, Site } from "./site.mjs";

const PAGE = "crates/flux2-server/page";
const bin = (name) => path.join(FOLDER, "node_modules/.bin", name);

function sources(folder = PAGE) {
    return readdirSync(folder).flatMap((name) => {
        const file = path.join(folder, name);
        return statSync(file).isDirectory() ? sources(file) : [file];
    });
}

export const tests = {
    async "the page agrees with the types of the API"() {
        const site = await Site.start();
        try {
            execFileSync(bin("openapi-typescript"), [`${site.base}/openapi.json`, "-o", path.join(FOLDER, "api.d.ts")]);
            execFileSync(bin("tsc"), ["-p", "tests/page"], { encoding: "utf8", stdio: "pipe" });
        } catch (error) {
            throw new Error(error.stdout || error.message);
        } finally {
            await site.stop();
        }
    },

    async "sources have one form"() {
        const files = [...sources(), "tests/page/*.{mjs,ts,json}"].filter((file) => !file.endsWith(".svg"));
        const flags = ["--print-width", "120", "--tab-width", "4", "--log-level", "warn"];
        try {
            execFileSync(
                bin("prettier"),
                [...flags, "--check", "!tests/page/node_modules", ...files.filter(isFormatted)],
                {
                    encoding: "utf8",
                    stdio: "pipe",
                },
            );
        } catch (error) {
            throw new Error(error.stdout + error.stderr);
        }
        for (const file of sources()) {
            const lines = readFileSync(file, "utf8").split("\n");
            check(lines.length <= 401, `${file} has ${lines.length} lines`);
            lines.forEach((line, at) => check(line.length <= 120, `${file}:${at + 1} is longer than 120 columns`));
        }
    },

    async "panels import no other panel but the notices"() {
        for (const file of sources().filter((name) => name.includes("/panels/"))) {
            const imported = [...readFileSync(file, "utf8").matchAll(/from "\.\/(.*)"/g)].map(([, name]) => name);
            same(
                imported.filter((name) => name !== "notices.js"),
                [],
                file,
            );
        }
    },

    async "every text of one language is one of the other"() {
        const [en, de] = await Promise.all(
            ["en", "de"].map(async (code) => (await import(path.resolve(PAGE, `texts/${code}.js`)))[code]),
        );
        same(names(de), names(en));
        const code = sources()
            .filter((file) => !file.includes("/texts/"))
            .map((file) => readFileSync(file, "utf8"))
            .join();
        const unused = Object.keys(en).filter((name) => !new RegExp(`\\bt\\.${name}\\b`).test(code));
        const dynamic = ["brush", "eraser", "hand"];
        same(
            unused.filter((name) => !dynamic.includes(name)),
            [],
            "texts that nothing shows",
        );
    },
};

/** The style sheet has one rule a line, which the formatter does not. @param {string} file */
function isFormatted(file) {
    return !file.endsWith(".css") && !file.endsWith(".html");
}

function names(texts, prefix = "") {
    return Object.entries(texts).flatMap(([key, value]) =>
        typeof value === "object" ? names(value, `${prefix}${key}.`) : [`${prefix}${key} ${typeof value}`],
    );
}
