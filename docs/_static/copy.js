// A button on each block of code that copies it: of a console or a doctest what is typed, not what is answered.
"use strict";

(() => { // names of its own
/** What a reader would type of a block. */
function typed(text) {
  const lines = text.replace(/\n+$/, "").split("\n");
  if (lines.some((line) => line.startsWith(">>> "))) {
    return lines.filter((line) => /^(>>>|\.\.\.)( |$)/.test(line)).map((line) => line.slice(4)).join("\n");
  }
  if (lines.some((line) => line.startsWith("$ "))) {
    return lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2).replace(/ +# not run: .*/, "")).join("\n");
  }
  return lines.join("\n");
}

/** Puts text on the clipboard, also where a page that is a file may not ask for it. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function add(block) {
  const button = document.createElement("button");
  button.className = "copy";
  button.type = "button";
  button.textContent = "copy";
  button.setAttribute("aria-label", "Copy this code");
  button.addEventListener("click", async () => {
    await toClipboard(typed(block.querySelector("pre").textContent));
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  block.append(button);
}

if (typeof document === "undefined") {
  module.exports = { typed }; // for the tests
} else {
  document.querySelectorAll("div.highlight-python > .highlight, div.highlight-console > .highlight").forEach(add);
}
})();
