// Wildcards in prompts: `{red|green}` is one of these, `__animal__` a line of a list. A seed always gives the same.

import { Store } from "./store.js";

/** Lists by their name, each a text with one choice a line. */
export const lists = new Store("lists", {
    animal: "red fox\nowl\nhedgehog\nwhale\nbee",
    color: "red\nblue\ngreen\nyellow\nblack",
    light: "morning light\ngolden hour\novercast sky\ncandlelight\nneon light",
});

/** Times that a list may lead to another one. */
const DEPTH = 4;
const CHOICE = /\{([^{}]*\|[^{}]*)\}/g;
const LIST = /__([a-z0-9-]+)__/gi;

/** Whether a prompt has wildcards. @param {string} prompt */
export function hasWildcards(prompt) {
    const isList = [...prompt.matchAll(LIST)].some(([, name]) => choices(name).length > 0);
    return isList || prompt.search(CHOICE) >= 0;
}

/** @param {string} name @returns {string[]} */
function choices(name) {
    const text = /** @type {Record<string, string>} */ (lists.value)[name.toLowerCase()] ?? "";
    return text
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean);
}

/** A prompt with every wildcard replaced. @param {string} prompt @param {number} seed */
export function expand(prompt, seed) {
    const random = generator(seed);
    const pick = (/** @type {string[]} */ list) => list[Math.floor(random() * list.length)] ?? "";
    let text = prompt;
    for (let depth = 0; depth < DEPTH; depth += 1) {
        text = text.replace(CHOICE, (_, inner) => pick(inner.split("|")).trim());
        text = text.replace(LIST, (whole, name) => (choices(name).length > 0 ? pick(choices(name)) : whole));
    }
    return text;
}

/** Numbers from 0 to 1 that a seed determines (mulberry32). @param {number} seed */
function generator(seed) {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6d2b79f5) >>> 0;
        let t = Math.imul(state ^ (state >>> 15), state | 1);
        t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
}
