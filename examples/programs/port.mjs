// The port of examples/vectors_js as a program that the suite can ask: gc-conformance run --command "node port.mjs"
//
// One line of JSON is a question, one line is its answer; protocol.schema.json of gc_conformance says what they hold.

import { createInterface } from "node:readline";
import * as gc from "../vectors_js/gc.mjs";

const TYPES = { float32: Float32Array, float64: Float64Array };
const DEFAULTS = {
  sgdm: { momentum: 0.9, dampening: 0, nesterov: false, weight_decay: 0, decoupled: false, gc_on: "gradient" },
  adam: {
    lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0, decoupled: false, amsgrad: false, gc_on: "gradient",
  },
};

class NotProvided extends Error {}

// Little-endian bits in hexadecimal, to numbers and back.
function read({ dtype, bits }) {
  if (!(dtype in TYPES)) throw new NotProvided(dtype);
  const bytes = Buffer.from(bits, "hex"), size = TYPES[dtype].BYTES_PER_ELEMENT;
  return TYPES[dtype].from({ length: bytes.length / size }, (_, i) =>
    size === 4 ? bytes.readFloatLE(4 * i) : bytes.readDoubleLE(8 * i));
}

function write(numbers, shape) {
  const size = numbers.BYTES_PER_ELEMENT, bytes = Buffer.alloc(size * numbers.length);
  numbers.forEach((x, i) => (size === 4 ? bytes.writeFloatLE(x, 4 * i) : bytes.writeDoubleLE(x, 8 * i)));
  return { dtype: size === 4 ? "float32" : "float64", shape, bits: bytes.toString("hex") };
}

const fields = (state, how) =>
  Object.fromEntries(Object.entries(state).map(([name, x]) => [name, x === null || name === "step" ? x : how(x)]));
const axes = (axis) => (typeof axis === "number" ? [axis] : axis);

function update(rule, { w, grad, state, axis, options }) {
  const step = { sgdm: gc.sgdmUpdate, adam: gc.adamUpdate }[rule], shape = w.shape;
  const [done, next] = step(read(w), read(grad), shape, fields(state, read), axes(axis), { ...DEFAULTS[rule], ...options });
  return { w: write(done, shape), state: fields(next, (x) => write(x, shape)) };
}

const answers = {
  start: () => ({
    version: 1,
    name: "Gradient Centralization in JavaScript",
    language: "JavaScript",
    dtypes: Object.keys(TYPES),
    provides: Object.keys(answers).filter((name) => name !== "start"),
  }),
  centralize: ({ grad, axis }) => write(gc.centralize(read(grad), grad.shape, axes(axis)), grad.shape),
  fan_in_axes: ({ shape, layout }) => gc.fanInAxes(shape, layout),
  sgdm_init: ({ w }) => fields(gc.sgdmInit(read(w)), (x) => write(x, w.shape)),
  sgdm_update: (question) => update("sgdm", question),
  adam_init: ({ w, options }) => fields(gc.adamInit(read(w), options.amsgrad ?? false), (x) => write(x, w.shape)),
  adam_update: (question) => update("adam", question),
};

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line), { seq } = question;
  let answer;
  try {
    answer = { seq, result: answers[question.do](question) };
  } catch (error) {
    answer = error instanceof NotProvided
      ? { seq, not_provided: error.message }
      : { seq, error: { kind: "other", message: String(error) } };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
