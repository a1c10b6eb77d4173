// @grpc/grpc-js against both protocols: node node.mjs MODULES HOST:PORT VLLM_PROTOS OURS
// The server has the demo model. MODULES is the folder with node_modules, the last two
// are those that the .proto files are found in.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [modules, address, vllmProtos, ourProtos] = process.argv.slice(2);
const require = createRequire(path.resolve(modules, "node_modules", "x"));
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROMPT = "Once upon a time";

function load(file, directory) {
  const options = { keepCase: true, defaults: true, oneofs: true, includeDirs: [directory] };
  return grpc.loadPackageDefinition(loader.loadSync(path.join(directory, file), options));
}

function connect(Service) {
  return new Service(address, grpc.credentials.createInsecure());
}

// A call with one answer, as a promise of the answer or of the error.
function ask(client, method, request, options = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, options, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  throw new assert.AssertionError({ message: "the call did not fail" });
}

// All messages of a stream and its status code.
async function collect(call) {
  const heard = [];
  try {
    for await (const message of call) heard.push(message);
    return { heard, code: grpc.status.OK };
  } catch (error) {
    return { heard, code: error.code };
  }
}

async function checkVllm() {
  const client = connect(load("vllm_engine.proto", vllmProtos).vllm.grpc.engine.VllmEngine);
  const info = await ask(client, "GetModelInfo", {});
  assert.equal(info.served_model_name, "demo");
  assert.equal((await ask(client, "HealthCheck", {})).healthy, true);
  const sampling_params = { temperature: 0, max_tokens: 24 };
  const request = { text: PROMPT, sampling_params, stream: true };
  const { heard, code } = await collect(client.Generate(request));
  assert.equal(code, grpc.status.OK);
  const ids = heard.flatMap((each) => each.chunk?.token_ids ?? []);
  const complete = heard.at(-1).complete;
  assert.deepEqual(complete.output_ids, ids);
  assert.equal(ids.length, 24);
  assert.equal(complete.finish_reason, "length");
  assert.ok(heard.length > 5, `${heard.length} messages are no stream`);
  const bad = { text: PROMPT, sampling_params: { temperature: -1 } };
  assert.equal((await collect(client.Generate(bad))).code, grpc.status.INVALID_ARGUMENT);
  assert.equal(await codeOf(ask(client, "FlushCache", {})), grpc.status.UNIMPLEMENTED);
  await checkCancel(client);
  client.close();
}

async function checkCancel(client) {
  const sampling_params = { max_tokens: 900, ignore_eos: true };
  const endless = { text: PROMPT, sampling_params, stream: true };
  const call = client.Generate(endless);
  call.once("data", () => call.cancel());
  assert.equal((await collect(call)).code, grpc.status.CANCELLED);
  const late = client.Generate(endless, { deadline: Date.now() + 200 });
  assert.equal((await collect(late)).code, grpc.status.DEADLINE_EXCEEDED);
  const id = { ...endless, request_id: "node-1" };
  const aborted = client.Generate(id);
  aborted.once("data", () => client.Abort({ request_ids: ["node-1"] }, () => {}));
  const { heard } = await collect(aborted);
  assert.equal(heard.at(-1).complete.finish_reason, "abort");
}

function inferRequest(text, { id = "", tokens = 24 } = {}) {
  const raw = Buffer.concat([Buffer.alloc(4), Buffer.from(text)]);
  raw.writeUInt32LE(raw.length - 4);
  return {
    id,
    model_name: "demo",
    inputs: [{ name: "text_input", datatype: "BYTES", shape: [1] }],
    raw_input_contents: [raw],
    parameters: { temperature: { double_param: 0 }, max_tokens: { int64_param: tokens } },
  };
}

const textOf = (response) => response.raw_output_contents[0].subarray(4).toString();

async function checkKServe() {
  const packages = load("mell_jax/serving/proto/open_inference.proto", ourProtos);
  const client = connect(packages.inference.GRPCInferenceService);
  assert.equal((await ask(client, "ServerReady", {})).ready, true);
  assert.equal((await ask(client, "ModelReady", { name: "demo" })).ready, true);
  const text = textOf(await ask(client, "ModelInfer", inferRequest(PROMPT)));
  assert.ok(text.length > 20, text);
  const missing = ask(client, "ModelInfer", { ...inferRequest("a"), model_name: "none" });
  assert.equal(await codeOf(missing), grpc.status.NOT_FOUND);

  const stream = client.ModelStreamInfer();
  for (const id of ["a", "b"]) stream.write(inferRequest(PROMPT, { id }));
  stream.write(inferRequest("", { id: "bad" }));
  stream.end();
  const { heard, code } = await collect(stream);
  assert.equal(code, grpc.status.OK);
  const texts = { a: "", b: "" };
  let finals = 0;
  for (const { error_message: error, infer_response: response } of heard) {
    finals += response.parameters.triton_final_response.bool_param;
    if (error) assert.match(error, /^\[request id: bad\] prompt must not be empty/);
    else texts[response.id] += textOf(response);
  }
  assert.deepEqual(texts, { a: text, b: text });
  assert.equal(finals, 3);
  client.close();
}

await checkVllm();
await checkKServe();
console.log("@grpc/grpc-js: all is well");
