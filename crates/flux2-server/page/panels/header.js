// The head of the page: name, state of the server, theme, language, key.

import { button, fill, h, Panel, select } from "../dom.js";
import { jobs } from "../jobs.js";
import { server } from "../server.js";
import { settings } from "../store.js";
import { languages, t } from "../text.js";

const THEME = "dj-flux2.theme";
/** @type {Record<string, "auto" | "sun" | "moon">} */
const ICONS = { auto: "auto", light: "sun", dark: "moon" };

class Header extends Panel {
    start() {
        const state = h("span", { class: "state" });
        const theme = h("span");
        const key = h("span");
        const banner = h("p", { class: "banner", role: "alert", hidden: true });
        const skip = h("a", { class: "skip", href: "#prompt" }, t.skip);
        const reference = h("a", { href: "/docs", class: "quiet wide" }, t.apiReference);
        const language = select(Object.entries(languages), document.documentElement.lang, changeLanguage, {
            "aria-label": t.language,
            class: "plain",
        });
        const tools = h("nav", { class: "tools" }, reference, language, theme, key);
        const brand = h("h1", { class: "brand" }, "dj-flux2");
        this.replaceChildren(skip, h("header", { class: "head" }, brand, state, tools), banner);

        const showState = () => {
            const name = server.state;
            const busy = jobs.active.length;
            const text = name === "ready" && busy > 0 ? t.busy(busy) : t.states[name];
            state.dataset.state = name === "ready" && busy > 0 ? "busy" : name;
            state.textContent = text;
            document.title = busy > 0 ? `(${busy}) dj-flux2` : t.title;
            banner.hidden = name !== "offline" && server.capabilities?.is_fake !== true;
            const problem = name === "offline" ? t.offline : t.fake;
            if (banner.textContent !== problem) banner.textContent = problem;
            banner.classList.toggle("calm", name !== "offline");
        };
        const showKey = () => {
            const open = () => document.dispatchEvent(new Event("ask-key"));
            fill(key, (settings.value.key || server.state === "locked") && button("key", t.changeKey, open));
        };
        const showTheme = () => {
            const now = document.documentElement.dataset.theme ?? "auto";
            const label = `${t.theme}: ${/** @type {Record<string, string>} */ (t.themes)[now]}`;
            fill(
                theme,
                button(ICONS[now] ?? "auto", label, () => nextTheme(now, showTheme), { "data-focus": "theme" }),
            );
        };
        this.listen(server, "change", () => [showState(), showKey()]);
        this.listen(jobs, "change", showState);
        this.listen(settings, "change", showKey);
        showState();
        showKey();
        showTheme();
    }
}

/** @param {string} code */
function changeLanguage(code) {
    settings.set({ language: code });
    location.reload();
}

/** @param {string} now @param {() => void} show */
function nextTheme(now, show) {
    const names = Object.keys(ICONS);
    const next = names[(names.indexOf(now) + 1) % names.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
        localStorage.setItem(THEME, next);
    } catch {
        // Chosen for this visit only.
    }
    show();
}

customElements.define("flux-header", Header);
