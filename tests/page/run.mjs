// Runs the tests of the page: `run.mjs PROGRAM FOLDER [NAME...]`. ONLY=text runs the tests with that in their name.

import { launch } from "./site.mjs";

const ALL = ["types", "flows", "settings", "editor", "gallery", "keyboard", "languages", "axe", "hostile"].concat([
    "speed",
    "screens",
    "mini",
]);
const wanted = process.argv.slice(4);
const browser = await launch();
let failed = 0;
for (const name of ALL.filter((one) => wanted.length === 0 || wanted.includes(one))) {
    const { tests } = await import(`./${name}.mjs`);
    for (const [what, test] of Object.entries(tests).filter(([one]) => one.includes(process.env.ONLY ?? ""))) {
        const start = Date.now();
        try {
            await test();
            console.log(`ok    ${name}: ${what} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
        } catch (error) {
            for (const context of browser.contexts()) {
                for (const page of context.pages()) await page.unrouteAll({ behavior: "ignoreErrors" });
                await context.close();
            }
            failed += 1;
            console.log(`FAIL  ${name}: ${what}\n${error.stack ?? error}`);
        }
    }
}
await browser.close();
console.log(failed === 0 ? "all passed" : `${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
