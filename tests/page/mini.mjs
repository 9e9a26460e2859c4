// A picture by klein-mini, the model that is built in.

import { cells, check, close, draw, open, Site } from "./site.mjs";

export const tests = {
    async "klein-mini draws from the page"() {
        const site = await Site.start(["--no-text-cache"], { fake: false });
        try {
            const page = await open(site);
            await page.getByRole("radio", { name: "1:1" }).waitFor();
            const text = await page.locator(".size-shown").innerText();
            check(/^\d+ × \d+ · [\d,]+ pixels/.test(text), `a size that the model was trained on: ${text}`);
            await draw(page, "a cat");
            await cells(page).first().waitFor({ timeout: 240_000 });
            await page.locator(".cell img.loaded").waitFor();
            await close(page);
        } finally {
            await site.stop("SIGKILL");
        }
    },
};
