// Opens pages of the built site in Chromium, over the DevTools protocol, and says what is wrong with each.
// node browse.mjs CHROMIUM FOLDER < {"pages": […]} > {"page": {problems: […], links: […], ids: […]}, …}
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [chromium, folder] = process.argv.slice(2);
const { pages } = JSON.parse(readFileSync(0, "utf8"));
const profile = mkdtempSync(join(tmpdir(), "browse-"));
const browser = spawn(chromium, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
  "--disable-background-networking", "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank",
]);

setTimeout(() => {
  browser.kill();
  throw new Error("Chromium has not answered for four minutes");
}, 240_000).unref();

const endpoint = await new Promise((found, failed) => {
  let text = "";
  browser.stderr.on("data", (data) => {
    text += data;
    const match = text.match(/ws:\/\/\S+/);
    if (match) found(match[0]);
  });
  browser.on("exit", () => failed(new Error("Chromium ended: " + text)));
});

const socket = new WebSocket(endpoint);
await new Promise((opened) => socket.addEventListener("open", opened));
const waiting = new Map();
let listeners = [];
let last = 0;
socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  if (waiting.has(message.id)) {
    const [done, failed] = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) failed(new Error(message.error.message));
    else done(message.result);
  } else listeners.forEach((listen) => listen(message));
});
function call(method, params = {}, sessionId) {
  const id = ++last;
  socket.send(JSON.stringify({ id, method, params, sessionId }));
  return new Promise((done, failed) => waiting.set(id, [done, failed]));
}

const screens = { desktop: [1280, 800, false], phone: [360, 740, true] };
const found = {};
const queue = [...pages];

/** One tab, which takes pages from the queue until none is left. */
async function tab() {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const tell = (method, params) => call(method, params, sessionId);
  const ask = async (expression) => {
    const { result, exceptionDetails } = await tell("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  for (const domain of ["Page", "Runtime", "Network", "Log"]) await tell(`${domain}.enable`);

  let problems = [];
  let loaded = () => {};
  listeners.push(({ method, params, sessionId: from }) => {
    if (from !== sessionId) return;
    if (method === "Page.loadEventFired") loaded();
    if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.exception?.description ?? "exception");
    if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) {
      problems.push(`console.${params.type}: ${params.args.map((arg) => arg.value).join(" ")}`);
    }
    if (method === "Log.entryAdded" && params.entry.level === "error") problems.push(params.entry.text);
    if (method === "Network.requestWillBeSent" && /^(https?|wss?):/.test(params.request.url)) {
      problems.push(`asks the network for ${params.request.url}`);
    }
  });

  async function set(screen, scheme) {
    const [width, height, mobile] = screens[screen];
    await tell("Emulation.setDeviceMetricsOverride", { width, height, mobile, deviceScaleFactor: 1 });
    await tell("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async function open(url) {
    const done = new Promise((resolved) => (loaded = resolved));
    await tell("Page.navigate", { url });
    await done;
  }

  for (let page = queue.shift(); page; page = queue.shift()) {
    problems = [];
    const [file, query] = page.split("?");
    const url = pathToFileURL(resolve(folder, file)).href + (query ? `?${query}` : "");
    await set("phone", "dark");
    await open(url);
    const wide = await ask("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    if (wide > 0) problems.push(`is ${wide} pixels wider than a phone`);
    const unseen = await ask(unseenTexts);
    if (unseen) problems.push(`has ${unseen} texts that a dark page hides`);
    if (await ask("!!document.querySelector('.projection .handle')")) problems.push(...(await interactive(tell, ask)));
    if (await ask("!!document.querySelector('.slider input')")) problems.push(...(await dragged(tell, ask)));
    if (await ask("!!document.querySelector('button.copy')")) problems.push(...(await copied(ask)));
    await set("desktop", "light");
    const hits = query ? await ask(searchHits) : [];
    const { links, ids } = await ask(`({
      links: [...document.querySelectorAll("a[href]")].map((a) => a.href),
      ids: [...document.querySelectorAll("[id]")].map((node) => node.id),
    })`);
    const dark = await ask(unseenTexts);
    if (dark) problems.push(`has ${dark} texts that a light page hides`);
    found[page] = { problems, links, ids, hits };
  }
}

// The pages that the site's search has found, once it says that it is done.
const searchHits = `new Promise((done) => {
  const look = () => {
    if (document.querySelector(".search-summary")?.textContent) {
      setTimeout(() => done([...document.querySelectorAll("#search-results li a")].map((a) => a.href)), 500);
    } else setTimeout(look, 50);
  };
  look();
})`;

const unseenTexts = `[...document.querySelectorAll("p, li, td, h1")].filter((node) => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const [ink, paper] = [getComputedStyle(node).color, getComputedStyle(document.body).backgroundColor].map(rgb);
  return Math.max(...ink.map((x, i) => Math.abs(x - paper[i]))) < 90;
}).length`;

/** The picture of chapter 2, with the keyboard and with a pointer. */
async function interactive(tell, ask) {
  const shown = () => ask("[...document.querySelectorAll('.projection output')].map((node) => node.textContent).join(' | ')");
  const problems = [];
  await tell("Page.bringToFront");
  const before = await shown();
  if (!before.includes("(3.00, 1.00)")) problems.push(`the picture starts with ${before}`);
  await ask("document.querySelector('.projection').scrollIntoView({ block: 'center', behavior: 'instant' })");
  await ask("document.querySelector('.projection .handle').focus({ preventScroll: true })");
  await ask("new Promise((done) => setTimeout(done, 100))"); // until the page stands still
  const key = { key: "ArrowRight", code: "ArrowRight", windowsVirtualKeyCode: 39 };
  await tell("Input.dispatchKeyEvent", { type: "keyDown", ...key });
  await tell("Input.dispatchKeyEvent", { type: "keyUp", ...key });
  const keyed = await shown();
  if (keyed !== "(3.10, 1.00) | 2.05 | (1.05, −1.05)") problems.push(`the arrow key gives ${keyed}`);
  const box = await ask("(({ x, y, width }) => ({ x, y, width }))(document.querySelector('.projection svg').getBoundingClientRect())");
  const at = (x, y) => ({ x: box.x + (box.width * x) / 320, y: box.y + (box.width * y) / 320, button: "left", clickCount: 1 });
  await tell("Input.dispatchMouseEvent", { type: "mousePressed", ...at(200, 120) });
  await tell("Input.dispatchMouseEvent", { type: "mouseMoved", ...at(160, 80), buttons: 1 });
  await tell("Input.dispatchMouseEvent", { type: "mouseReleased", ...at(160, 80) });
  const dragged = await shown();
  if (dragged !== "(0.00, 2.00) | 1.00 | (−1.00, 1.00)") problems.push(`dragging gives ${dragged}`);
  return problems;
}

/** A slider, with the keyboard, as a screen reader knows it, and with a pointer. */
async function dragged(tell, ask) {
  const problems = [];
  const shown = () => ask("[...document.querySelectorAll('.slider .at, .slider .value')].map((node) => node.textContent).join(' | ')");
  const { nodes } = await tell("Accessibility.getFullAXTree");
  const named = nodes.filter((node) => node.role?.value === "slider" && node.name?.value);
  if (!named.length) problems.push("has a slider without a name");
  await tell("Page.bringToFront");
  await ask("document.querySelector('.slider').scrollIntoView({ block: 'center', behavior: 'instant' })");
  await ask("document.querySelector('.slider input').focus({ preventScroll: true })");
  await ask("new Promise((done) => setTimeout(done, 100))");
  const before = await shown();
  const key = { key: "ArrowRight", code: "ArrowRight", windowsVirtualKeyCode: 39 };
  await tell("Input.dispatchKeyEvent", { type: "keyDown", ...key });
  await tell("Input.dispatchKeyEvent", { type: "keyUp", ...key });
  const keyed = await shown();
  if (keyed === before) problems.push(`the arrow key leaves the slider at ${before}`);
  const box = await ask("(({ x, y, width, height }) => ({ x, y, width, height }))(document.querySelector('.slider input').getBoundingClientRect())");
  const at = { x: box.x + 0.9 * box.width, y: box.y + box.height / 2, button: "left", clickCount: 1 };
  await tell("Input.dispatchMouseEvent", { type: "mousePressed", ...at });
  await tell("Input.dispatchMouseEvent", { type: "mouseReleased", ...at });
  if ((await shown()) === keyed) problems.push("the slider does not follow a pointer");
  return problems;
}

/** The first button that copies: what it puts into a selection is the code beside it. */
async function copied(ask) {
  const said = await ask(`new Promise((done) => {
    const button = document.querySelector("button.copy");
    button.click();
    setTimeout(() => done(button.textContent), 300);
  })`);
  return said === "copied" ? [] : [`the button says ${said} after it copied`];
}

await Promise.all([tab(), tab(), tab()]);
process.stdout.write(JSON.stringify(found), () => {
  browser.kill();
  browser.on("exit", () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 3 });
    process.exit(0);
  });
});
