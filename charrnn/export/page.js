"use strict";
const $ = (id) => document.getElementById(id);
const source = $("sampler").textContent + $("worker").textContent;
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
worker.postMessage({ model: JSON.parse($("model").textContent) });

function setBusy(busy) {
  $("write").disabled = busy;
  $("stop").disabled = !busy;
  $("status").textContent = busy ? "Writing." : "Done.";
}

function show(part) {
  const text = $("text");
  for (const [characters, surprise] of part) {
    const span = document.createElement("span");
    span.textContent = characters;
    span.style.setProperty("--surprise", Math.min(surprise / 8, 1).toFixed(3));
    text.append(span);
  }
}

worker.onmessage = ({ data }) => {
  if ($("write").disabled) show(data.part);
  if (data.done) setBusy(false);
};
worker.onerror = () => {
  setBusy(false);
  $("status").textContent = "The model cannot be run by this browser.";
};

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 32) : +$("seed").value;
  $("used").textContent = seed;
  $("text").textContent = $("prime").value;
  setBusy(true);
  worker.postMessage({
    request: {
      prime: $("prime").value,
      temperature: +$("temperature").value,
      length: +$("length").value,
      seed,
    },
  });
});
$("stop").addEventListener("click", () => {
  worker.postMessage({});
  setBusy(false);
  $("status").textContent = "Stopped.";
});
$("shade").addEventListener("change", () => {
  $("text").classList.toggle("shaded", $("shade").checked);
});
$("temperature").addEventListener("input", () => {
  $("temperature-value").textContent = (+$("temperature").value).toFixed(2);
});
