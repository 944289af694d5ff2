// The worker of the page: writes a text when it is asked to, in parts of some milliseconds.
const PART = 30; // milliseconds between two parts, so that "stop" is heard
let model = null, job = 0;

onmessage = async ({ data }) => {
  if (data.model) model = new Model(data.model);
  const own = ++job; // a new message ends the job before it
  if (!data.request) return;
  const { prime, temperature, length, seed } = data.request;
  const toText = decoder(model), ids = write(model, prime, temperature, seed);
  let part = [], shown = performance.now();
  for (let n = 0; n < length; n++) {
    const { id, surprise } = ids.next().value;
    part.push([toText(id), surprise]);
    if (performance.now() - shown < PART && n + 1 < length) continue;
    postMessage({ part, done: n + 1 === length });
    part = [];
    await new Promise((resume) => setTimeout(resume));
    if (job !== own) return;
    shown = performance.now();
  }
};
