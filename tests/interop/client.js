// A client of edged that has nothing of edged but its protocol: @grpc/grpc-js with proto files that
// are read at run time, or with none, through reflection. Takes {scenario, address, …} as JSON and
// prints what it saw, a line of JSON each.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const LOADED = { keepCase: true, longs: Number, enums: String, oneofs: true, defaults: true };
const task = JSON.parse(process.argv[2]);
const say = (seen) => process.stdout.write(JSON.stringify(seen) + "\n");

// ── How the daemon is reached ────────────────────────────────────────────────────────────────────

function credentials() {
  return task.certificate
    ? grpc.credentials.createSsl(Buffer.from(task.certificate))
    : grpc.credentials.createInsecure();
}

// A certificate of the daemon's own is for the name "edged", whatever its address.
const OPTIONS = task.certificate ? { "grpc.ssl_target_name_override": "edged" } : {};

function metadata() {
  const made = new grpc.Metadata();
  if (task.token) made.set("authorization", `Bearer ${task.token}`);
  return made;
}

function deadline() {
  return { deadline: Date.now() + 1000 * (task.deadline_s ?? 30) };
}

function inference() {
  const definition = loader.loadSync("edged/v1/inference.proto", {
    ...LOADED,
    includeDirs: ["proto"],
  });
  const { edged } = grpc.loadPackageDefinition(definition);
  return new edged.v1.InferenceService(task.address, credentials(), OPTIONS);
}

// ── Errors ───────────────────────────────────────────────────────────────────────────────────────

// As Google publishes them; the folder is one that has google/rpc in it.
function details(packed) {
  const definition = loader.loadSync("google/rpc/error_details.proto", {
    ...LOADED,
    includeDirs: [task.google],
  });
  const status = loader.loadSync("google/rpc/status.proto", {
    ...LOADED,
    includeDirs: [task.google],
  });
  return status["google.rpc.Status"].deserialize(packed).details.map((any) => {
    const name = any.type_url.split("/").pop();
    return { "@type": name, ...definition[name].deserialize(any.value) };
  });
}

function failure(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  return {
    code: grpc.status[error.code],
    message: error.details,
    details: packed ? details(packed) : [],
    pushback_ms: error.metadata.get("grpc-retry-pushback-ms"),
  };
}

// ── Scenarios ────────────────────────────────────────────────────────────────────────────────────

// Streams an answer; with cancel_after it is cancelled when so many tokens have come.
function generate(client) {
  let numTokens = 0;
  const call = client.Generate(task.request, metadata(), deadline());
  call.on("data", (response) => {
    say({ event: response.event, ...response[response.event] });
    if (response.event === "token" && ++numTokens === task.cancel_after) call.cancel();
  });
  call.on("error", (error) => say({ error: failure(error) }));
  call.on("end", () => say({ end: true }));
}

function health() {
  const { service } = require("grpc-health-check");
  const Client = grpc.makeGenericClientConstructor(service, "Health");
  const client = new Client(task.address, credentials(), OPTIONS);
  client.check({ service: task.service }, metadata(), deadline(), (error, answer) => {
    say(error ? { error: failure(error) } : answer);
  });
}

// Knows no proto file at all.
async function reflection() {
  const { GrpcReflection } = require("grpc-js-reflection-client");
  const client = new GrpcReflection(task.address, credentials(), OPTIONS);
  say({ services: await client.listServices() });
  const descriptor = await client.getDescriptorBySymbol("edged.v1.InferenceService");
  const { edged } = descriptor.getPackageObject(LOADED);
  generate(new edged.v1.InferenceService(task.address, credentials(), OPTIONS));
}

const SCENARIOS = { generate: () => generate(inference()), health, reflection };
SCENARIOS[task.scenario]();
