// Messages between the tabs of one browser, so that they agree at once.

/** @typedef {{jobs?: boolean, gallery?: boolean}} Message */

const channel = new BroadcastChannel("dj-flux2");

/** Tell all other tabs. @param {Message} message */
export function tell(message) {
    channel.postMessage(message);
}

/** @param {(message: Message) => void} listener */
export function hear(listener) {
    channel.addEventListener("message", (event) => listener(event.data ?? {}));
}
