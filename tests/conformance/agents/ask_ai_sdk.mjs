// Vercel's AI SDK calls tools and gets shapes: node ask_ai_sdk.mjs URL
// By responses, by chat completions and as a provider of its own, whole and as streams.
// The server has the demo model. Stands in the folder that has node_modules.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const STORY = "Once upon a time";
const STORY_TOKENS = 24;
const SHAPE_TOKENS = 240;

const Weather = z.strictObject({
  city: z.enum(["Paris", "Oslo"]),
  days: z.int().min(1).max(9),
  note: z.string().max(8),
});

const sum = (parts) => parts.join("");

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

function check_parts(whole, parts) {
  const heard = parts.filter((part) => part);
  assert.equal(sum(heard), whole);
  assert.ok(heard.length > 3, `${heard.length} parts are no stream`);
}

// A tool is called, run, and its result is told to the model.
async function check_calls(asked) {
  const heard = [];
  const get_weather = tool({
    description: "Tells the weather of some days.",
    inputSchema: Weather,
    strict: true,
    execute: async (weather) => {
      heard.push(weather);
      return `The sun shines.\n${STORY}`;
    },
  });
  const calling = {
    ...asked,
    maxOutputTokens: SHAPE_TOKENS,
    tools: { get_weather },
    toolChoice: { type: "tool", toolName: "get_weather" },
  };
  const called = await generateText(calling);
  assert.equal(called.finishReason, "tool-calls");
  const [call, ...others] = called.toolCalls;
  assert.equal(others.length, 0);
  assert.equal(call.toolName, "get_weather");
  assert.ok(call.toolCallId && !call.invalid, JSON.stringify(call));
  Weather.parse(call.input);
  assert.deepEqual(heard, [call.input]);

  const stream = streamText(calling);
  const pieces = [];
  for await (const part of stream.stream) {
    if (part.type === "error") throw part.error;
    if (part.type === "tool-input-delta") pieces.push(part.delta);
  }
  const [streamed] = await stream.toolCalls;
  assert.deepEqual(streamed.input, call.input);
  assert.deepEqual(JSON.parse(sum(pieces)), call.input);
  assert.ok(pieces.length > 3, `${pieces.length} parts are no stream`);
  assert.equal(await stream.finishReason, "tool-calls");

  const told = await generateText({
    ...calling,
    providerOptions: {
      openai: { parallelToolCalls: false },
      mell: { parallel_tool_calls: false },
    },
    stopWhen: isStepCount(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
  });
  assert.equal(told.steps.length, 2);
  assert.ok(told.text.length > 20, told.text);
}

async function check_shapes(asked) {
  const shaped = {
    ...asked,
    maxOutputTokens: SHAPE_TOKENS,
    output: Output.object({ schema: Weather }),
  };
  const whole = await generateText(shaped);
  assert.equal(whole.finishReason, "stop");
  Weather.parse(whole.output);
  const stream = streamText(shaped);
  check_parts(whole.text, await collect(stream.textStream));
  assert.deepEqual(await stream.output, whole.output);
}

async function check_stories(asked) {
  const telling = { ...asked, maxOutputTokens: STORY_TOKENS };
  const whole = await generateText(telling);
  assert.equal(whole.finishReason, "length");
  assert.equal(whole.usage.outputTokens, STORY_TOKENS);
  const stream = streamText(telling);
  check_parts(whole.text, await collect(stream.textStream));
  assert.equal((await stream.usage).outputTokens, STORY_TOKENS);
}

const baseURL = `${process.argv[2]}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "mell",
  baseURL,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
for (const model of [openai.responses("demo"), openai.chat("demo"), compatible("demo")]) {
  const asked = { model, prompt: STORY, temperature: 0, maxRetries: 0 };
  await check_calls(asked);
  await check_shapes(asked);
  await check_stories(asked);
}
console.log("AI SDK: tools, shapes and streams are as wanted");
