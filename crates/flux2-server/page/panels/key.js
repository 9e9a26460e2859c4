// The API key: asked for when the server needs one, kept in the browser.

import { call, connection } from "../api.js";
import { h, Panel } from "../dom.js";
import { server } from "../server.js";
import { settings } from "../store.js";
import { t } from "../text.js";

class Key extends Panel {
    start() {
        const input = h("input", { type: "password", autocomplete: "current-password", id: "api-key" });
        const problem = h("p", { class: "error", role: "alert" });
        const forget = () => {
            settings.set({ key: "" });
            location.reload();
        };
        const form = h(
            "form",
            {
                method: "dialog",
                onsubmit: (/** @type {Event} */ event) => {
                    event.preventDefault();
                    void enter();
                },
            },
            h("h2", {}, t.keyNeeded),
            h("p", { class: "help" }, t.keyHelp),
            h("label", { for: "api-key" }, t.key),
            input,
            problem,
            h(
                "div",
                { class: "row" },
                h("button", { type: "submit", class: "button primary" }, t.save),
                h("button", { type: "button", class: "button", onclick: forget }, t.forgetKey),
                h("button", { type: "button", class: "button", onclick: () => dialog.close() }, t.cancel),
            ),
        );
        const dialog = h("dialog", { class: "small", "aria-label": t.keyNeeded }, form);
        this.replaceChildren(dialog);
        const open = () => {
            problem.textContent = settings.value.key && server.state === "locked" ? t.keyWrong : "";
            if (!dialog.open) dialog.showModal();
        };
        const enter = async () => {
            settings.set({ key: input.value.trim() });
            try {
                await call("GET", "/api/v1/stats");
                input.value = "";
                dialog.close();
                void server.load();
            } catch (error) {
                problem.textContent = error instanceof Error && server.state === "locked" ? t.keyWrong : t.offline;
                input.focus();
            }
        };
        this.listen(connection, "locked", open);
        this.listen(document, "ask-key", open);
    }
}

customElements.define("flux-key", Key);
