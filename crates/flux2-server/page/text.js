// The texts of the page in the language of the reader.

import { en } from "./texts/en.js";
import { settings } from "./store.js";

/** All texts. Modules use them after `loadTexts`. */
export let t = en;

/** Languages by their code, each in its own words. */
export const languages = { en: "English", de: "Deutsch" };

/** Choose the language: the one of the settings, else the first of the browser's that there is. */
export async function loadTexts() {
    const wanted = [settings.value.language, ...navigator.languages].map((code) => code.slice(0, 2));
    const code = wanted.find((one) => one in languages) ?? "en";
    if (code === "de") t = (await import("./texts/de.js")).de;
    document.documentElement.lang = code;
    document.title = t.title;
}
