// Vercel's AI SDK: @ai-sdk/openai-compatible over chat completions, and @ai-sdk/openai, whose default is responses.
// node ai_sdk.mjs BASE_URL API_KEY MODEL prints what each case gave, as run_program.py does.
import { appendFileSync, readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, apiKey, id] = process.argv.slice(2);
const prompt = "What is the weather in Paris?";
const schema = z.object({ city: z.string(), degrees: z.number().int() });
const tools = {
  weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sunny in ${city}`,
  }),
};

const compatible = createOpenAICompatible({ name: "appliance", baseURL, apiKey })(id);
const structuring = createOpenAICompatible({ name: "appliance", baseURL, apiKey, supportsStructuredOutputs: true })(id);
const responses = createOpenAI({ baseURL, apiKey })(id);

const answer = async (model) => (await generateText({ model, prompt: "Hello" })).text;
const stream = async (model) => await streamText({ model, prompt: "Hello", onError() {} }).text;
const called = async (model, more = {}) =>
  (await generateText({ model, prompt, tools, stopWhen: stepCountIs(2), ...more })).text;
const streamed = async (model) =>
  (await streamText({ model, prompt, tools, stopWhen: stepCountIs(2), onError() {} }).steps).at(-1).text;
const object = async (model) => (await generateObject({ model, schema, prompt })).object;
const required = async (model) => {
  const result = await generateText({ model, prompt, tools, toolChoice: "required" });
  return `It is ${result.toolResults[0].output}.`; // a second step would have to call, too
};

const cases = {
  answer: () => answer(compatible),
  stream: () => stream(compatible),
  tool: () => called(compatible),
  "tool, streamed": () => streamed(compatible),
  "tool_choice required": () => required(compatible),
  "structured: generateObject": () => object(compatible),
  "structured: generateObject, supportsStructuredOutputs": () => object(structuring),
  "responses: answer": () => answer(responses),
  "responses: stream": () => stream(responses),
  "responses: tool": () => called(responses),
  "responses: tool, streamed": () => streamed(responses),
  "responses: tool_choice required": () => required(responses),
  "responses: structured, generateObject": () => object(responses),
};

const own = globalThis.fetch;
globalThis.fetch = (url, options) => {
  if (String(url).startsWith(baseURL)) return own(url, options);
  appendFileSync(process.env.ELSEWHERE, `${new URL(String(url)).hostname}\n`);
  return Promise.reject(new TypeError("this network is isolated"));
};

const found = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    found[name] = { value: await run() };
  } catch (error) {
    found[name] = { error: `${error.name}: ${error.message} ${error.responseBody ?? ""}`.slice(0, 600) };
  }
}
const manifest = new URL("../../../node_modules/ai/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(manifest, "utf-8"));
const settings =
  "`baseURL`, `apiKey`; `supportsStructuredOutputs: true` makes `createOpenAICompatible` send the schema that `generateObject` is given";
console.log(JSON.stringify({ client: "ai", version, settings, cases: found }));
