// Hold a port to the test vectors: node check.mjs DIR [port.mjs]. Exit code 0: conforms, 1: does not, 2: cannot be judged.
//
// The vectors are written by `gc-conformance vectors write DIR`; vectors.schema.json beside them says what they hold.

import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const TYPES = { float32: Float32Array, float64: Float64Array }; // the dtypes that the port offers
class NotProvided extends Error {}

// Little-endian bits in hexadecimal, as numbers.
function numbers(hex, type) {
  const bytes = Buffer.from(hex, "hex"), size = type.BYTES_PER_ELEMENT;
  const read = size === 4 ? bytes.readFloatLE : bytes.readDoubleLE;
  return type.from({ length: bytes.length / size }, (_, i) => read.call(bytes, i * size));
}

function array({ dtype, bits }) {
  if (!(dtype in TYPES)) throw new NotProvided(dtype);
  return numbers(bits, TYPES[dtype]);
}

// `bits` must come out as they are. Otherwise each element must be within `bound` of `value`, and where value is NaN it
// must not be finite.
function compare(what, got, want) {
  if (want === null || got === null) {
    if (want !== got) throw new Error(`${what} must ${want === null ? "" : "not "}be null`);
    return;
  }
  if (!(got instanceof TYPES[want.dtype])) throw new Error(`${what} must be ${want.dtype}`);
  const value = "bits" in want ? array(want) : numbers(want.value, Float64Array);
  const bound = "bits" in want ? value.map(() => 0) : numbers(want.bound, Float64Array);
  if (got.length !== value.length) throw new Error(`${what} has ${got.length} elements, and must have ${value.length}`);
  for (let i = 0; i < value.length; i++) {
    const right = Number.isNaN(value[i])
      ? !Number.isFinite(got[i])
      : bound[i] === Infinity || Math.abs(got[i] - value[i]) <= bound[i];
    if (!right) throw new Error(`${what}: element ${i} is ${got[i]}, and must be ${value[i]} within ${bound[i]}`);
  }
}

function steps(vector, state, update, fields) {
  let w = array(vector.w);
  vector.grads.forEach((grad, i) => {
    [w, state] = update(w, array(grad), vector.w.shape, state, vector.axis, vector.options);
    for (const field of fields) compare(`${field} after step ${i + 1}`, state[field], vector.result[i][field]);
    compare(`w after step ${i + 1}`, w, vector.result[i].w);
  });
}

const rules = (port) => ({
  centralize: ({ grad, axis, result }) =>
    compare("centralize(grad, axis)", port.centralize(array(grad), grad.shape, axis), result),
  fan_in_axes: ({ shape, layout, result }) => {
    const got = port.fanInAxes(shape, layout);
    if (JSON.stringify(got) !== JSON.stringify(result)) throw new Error(`it is ${got}, and must be ${result}`);
  },
  sgdm: (vector) => steps(vector, port.sgdmInit(array(vector.w)), port.sgdmUpdate, ["momentum_buffer"]),
  adam: (vector) =>
    steps(vector, port.adamInit(array(vector.w), vector.options.amsgrad), port.adamUpdate, [
      "exp_avg",
      "exp_avg_sq",
      "max_exp_avg_sq",
    ]),
  centralize_layer: () => {
    throw new NotProvided("a choice of axes");
  },
});

const [folder, file = new URL("gc.mjs", import.meta.url).pathname] = process.argv.slice(2);
const check = rules(await import(pathToFileURL(resolve(file))));
const total = { passed: 0, failed: 0, "not provided": 0 };
for (const rule of Object.keys(check)) {
  const path = join(folder ?? ".", `${rule}.json`);
  if (!existsSync(path)) {
    console.error(`${path} is missing. Write it: gc-conformance vectors write DIR`);
    process.exit(2);
  }
  const { format, vectors } = JSON.parse(readFileSync(path, "utf8"));
  if (format !== 1) {
    console.error(`${path} has format ${format}; this reader knows 1.`);
    process.exit(2);
  }
  for (const vector of vectors) {
    try {
      check[rule](vector);
      total.passed++;
    } catch (error) {
      total[error instanceof NotProvided ? "not provided" : "failed"]++;
      if (!(error instanceof NotProvided)) console.log(`${vector.id} (${vector.flags}): ${error.message}`);
    }
  }
}
console.log(Object.entries(total).map(([status, count]) => `${count} ${status}`).join(", "));
process.exit(total.failed ? 1 : total.passed ? 0 : 2);
