// Numbers, sizes and times in the language of the page.

import { t } from "./text.js";

const language = () => document.documentElement.lang || "en";

/** @param {number} value @param {number} digits */
export function number(value, digits = 0) {
    return value.toLocaleString(language(), { maximumFractionDigits: digits });
}

/** A time to wait, in words. @param {number} seconds */
export function duration(seconds) {
    if (seconds < 1) return t.lessThanASecond;
    if (seconds < 10) return t.seconds(number(seconds, 1));
    if (seconds < 90) return t.seconds(number(Math.round(seconds)));
    if (seconds < 5400) return t.minutes(number(Math.round(seconds / 60)));
    return t.hours(number(seconds / 3600, 1));
}

/** @param {number} bytes */
export function size(bytes) {
    if (bytes < 1 << 20) return `${number(bytes / 1024)} KiB`;
    if (bytes < 1 << 30) return `${number(bytes / (1 << 20))} MiB`;
    return `${number(bytes / (1 << 30), 1)} GiB`;
}

/** Date and time, in short. @param {string} text RFC 3339 */
export function when(text) {
    return new Date(text).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
}

/** A pair of sides. @param {number} width @param {number} height */
export function sides(width, height) {
    return `${width} × ${height}`;
}
