// prisma's query engine as the client for Python knows it, of what the npm registry has of it.
//
// The engine itself is the program's own code, built as WebAssembly (`@prisma/client`), with prisma's adapter for
// PostgreSQL. The program as it is released comes from binaries.prisma.sh alone. What is written here is its outside:
// the command line, its HTTP API, and its older language for queries, GraphQL, as the WebAssembly knows the newer one.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { bindAdapter } from "@prisma/driver-adapter-utils";
import { PrismaPg } from "@prisma/adapter-pg";
import { parse } from "graphql";
import pg from "pg";

const VERSION = "393aa359c9ad4a4bb28630fb5613f9c281cde053";
if (process.argv.includes("--version")) {
  console.log(`query-engine ${VERSION}`);
  process.exit(0);
}

const require = createRequire(import.meta.url);
const runtime = join(dirname(require.resolve("@prisma/client/package.json")), "runtime");
const glue = require(join(runtime, "query_engine_bg.postgresql.js"));
const wasm = new WebAssembly.Module(readFileSync(join(runtime, "query_engine_bg.postgresql.wasm")));
glue.__wbg_set_wasm(new WebAssembly.Instance(wasm, { "./query_engine_bg.js": glue }).exports);

const url = new URL(process.env.DATABASE_URL);
const schema = url.searchParams.get("schema") ?? "public";
const limit = Number(url.searchParams.get("connection_limit") ?? 10);
url.search = "";
const pool = new pg.Pool({ connectionString: url.href, max: limit, options: `-c search_path=${schema}` });
pool.on("error", () => {}); // the next query says so
const adapter = bindAdapter(new PrismaPg(pool, { schema }));
const datamodel = readFileSync(process.env.PRISMA_DML_PATH, "utf8");
const engine = new glue.QueryEngine({ datamodel, logLevel: "error", logQueries: false }, () => {}, adapter);
const TRACE = "{}";

const ACTIONS = "findUnique findFirst findMany createOne createMany updateOne updateMany upsertOne deleteOne deleteMany aggregate groupBy"
  .split(" ").sort((one, other) => other.length - one.length);

// Each model's fields with their types: text for a field of JSON is JSON, which the newer language wants to be told
const models = {};
let current = null;
for (const line of datamodel.split("\n")) {
  const [, name] = line.match(/^model (\w+)/) ?? [];
  if (name) current = models[name] = {};
  const [, field, type] = (current && line.match(/^\s+(\w+)\s+(\w+)/)) ?? [];
  if (field) current[field] = type;
  if (line.startsWith("}")) current = null;
}

function valueOf(node, model, json = false) {
  switch (node.kind) {
    case "ObjectValue":
      return Object.fromEntries(
        node.fields.map(({ name, value }) => {
          const type = models[model]?.[name.value];
          return [name.value, valueOf(value, models[type] ? type : model, json || type === "Json")];
        }),
      );
    case "ListValue":
      return node.values.map((one) => valueOf(one, model, json));
    case "IntValue":
    case "FloatValue":
      return Number(node.value);
    case "NullValue":
      return null;
    case "StringValue":
      return json ? { $type: "Json", value: node.value } : node.value;
    default:
      return node.value; // a truth value, or a word
  }
}

const argumentsOf = (field, model) =>
  Object.fromEntries((field.arguments ?? []).map((one) => [one.name.value, valueOf(one.value, model)]));

function queryOf(field, model) {
  const selection = {};
  for (const one of field.selectionSet?.selections ?? []) {
    const name = one.name.value;
    selection[name] = one.selectionSet || one.arguments?.length ? queryOf(one, models[model]?.[name] ?? model) : true;
  }
  return { arguments: argumentsOf(field, model), selection };
}

// One operation of the older language as a query of the newer one, and the name of its result
function translated(text) {
  const [operation] = parse(text).definitions;
  const [field] = operation.selectionSet.selections;
  const name = field.name.value;
  const shown = field.alias?.value ?? name;
  if (name === "queryRaw" || name === "executeRaw") {
    return [{ action: name, query: { arguments: argumentsOf(field), selection: {} } }, shown];
  }
  const action = ACTIONS.find((one) => name.startsWith(one));
  const modelName = name.slice(action.length);
  return [{ modelName, action, query: queryOf(field, modelName) }, shown];
}

// A result without the types that the newer language adds
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  if ("$type" in value) return value.value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
}

async function ask(body, transaction) {
  const many = "batch" in body;
  const wanted = (many ? body.batch : [body]).map((one) => translated(one.query));
  const query = many
    ? { batch: wanted.map(([one]) => one), transaction: body.transaction ? {} : undefined }
    : wanted[0][0];
  const answer = JSON.parse(await engine.query(JSON.stringify(query), TRACE, transaction));
  const shown = (one, name) => (one.errors ? one : { data: { [name]: plain(Object.values(one.data ?? one)[0]) } });
  if (process.env.SHOW_QUERIES) console.error(JSON.stringify(body).slice(0, 800), "->", JSON.stringify(answer).slice(0, 600));
  if (!many) return shown(answer, wanted[0][1]);
  return answer.errors ? answer : { batchResult: answer.batchResult.map((one, index) => shown(one, wanted[index][1])) };
}

async function answer(request, text) {
  const [, place, id, what] = request.url.split("/");
  if (place === "status") return { status: "ok" };
  if (place === "metrics") return {};
  if (place === "transaction" && id === "start") return JSON.parse(await engine.startTransaction(text, TRACE));
  if (place === "transaction") {
    return JSON.parse(await (what === "commit" ? engine.commitTransaction(id, TRACE) : engine.rollbackTransaction(id, TRACE)));
  }
  return ask(JSON.parse(text), request.headers["x-transaction-id"]);
}

const failure = (error) => ({
  errors: [{ error: String(error), user_facing_error: { is_panic: false, message: String(error), error_code: "P1001", meta: {} } }],
});

const server = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", async () => {
    const said = await answer(request, Buffer.concat(parts).toString()).catch(failure);
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(said));
  });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
await engine.connect(TRACE);
server.listen(Number(process.argv[process.argv.indexOf("-p") + 1]), "localhost");
