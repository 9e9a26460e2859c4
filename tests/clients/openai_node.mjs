// The openai package for JavaScript, against the server at $BASE.

import assert from "node:assert/strict";
import fs from "node:fs";

import OpenAI, { toFile } from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: `${process.env.BASE}/v1`, apiKey: "none" });
const isPng = (text) => Buffer.from(text, "base64").subarray(1, 4).toString() === "PNG";

const made = await client.images.generate({ prompt: "a fox", model: "gpt-image-1", n: 2, size: "64x64" });
assert.equal(made.data.length, 2);
assert.ok(isPng(made.data[0].b64_json));
assert.equal(made.usage.total_tokens, made.usage.input_tokens + made.usage.output_tokens);

const image = () => toFile(fs.createReadStream(process.env.IMAGE), "gray.png", { type: "image/png" });
const edited = await client.images.edit({ image: [await image(), await image()], prompt: "both" });
assert.equal(edited.size, "64x64");

const events = [];
for await (const event of await client.images.generate({ prompt: "a fox", size: "64x64", stream: true })) {
  events.push(event);
}
assert.equal(events.at(-1).type, "image_generation.completed");
assert.ok(isPng(events.at(-1).b64_json));

await assert.rejects(client.images.generate({ prompt: "p", size: "65x64" }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.code, "invalid_size");
  assert.ok(error.requestID);
  return true;
});
await assert.rejects(client.images.generate({ prompt: "p", model: "dall-e-9" }), OpenAI.NotFoundError);
assert.ok((await client.models.list()).data.some((model) => model.id === "klein-4b"));
console.log(VERSION);
