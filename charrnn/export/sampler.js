"use strict";
// A model of charrnn in plain JavaScript. charrnn/network/cells has the equations; names and shapes
// of weights are PyTorch's. H units, G gates, V characters, M equal blocks on the diagonals.

function decodeBytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The values of a tensor, row by row. A row of int8 has a scale of its own.
function decodeTensor(tensor) {
  const bytes = decodeBytes(tensor.data);
  if (tensor.type === "float32") return new Float32Array(bytes.buffer);
  if (tensor.type === "float16") return Float32Array.from(new Uint16Array(bytes.buffer), float16);
  const scales = new Float32Array(decodeBytes(tensor.scales).buffer);
  const width = bytes.length / scales.length;
  return Float32Array.from(new Int8Array(bytes.buffer), (q, i) => q * scales[Math.floor(i / width)]);
}

// The sum of W[i + k] * x[j + k] for k < n, in four sums that the processor adds side by side.
function dot(W, i, x, j, n) {
  let a = 0, b = 0, c = 0, d = 0, k = 0;
  for (; k + 3 < n; k += 4) {
    a += W[i + k] * x[j + k];
    b += W[i + k + 1] * x[j + k + 1];
    c += W[i + k + 2] * x[j + k + 2];
    d += W[i + k + 3] * x[j + k + 3];
  }
  for (; k < n; k++) a += W[i + k] * x[j + k];
  return a + b + (c + d);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// Each cell replaces the state s of its layer, arrays of (H,); a (G H,) is W x + b of all gates, and
// layer.hidden(gate, h) is U h + b of one gate (H,).
const CELLS = {
  rnn(layer, a, s, H) {
    const u = layer.hidden(0, s[0]);
    for (let j = 0; j < H; j++) s[0][j] = Math.tanh(a[j] + u[j]);
  },
  lstm(layer, a, s, H) {
    const [h, c] = s, p = layer.peepholes;
    const [i, f, g, o] = [0, 1, 2, 3].map((gate) => layer.hidden(gate, h));
    for (let j = 0; j < H; j++) {
      const before = c[j], [ci, cf, co] = p ? [p[0][j], p[1][j], p[2][j]] : [0, 0, 0];
      const input = sigmoid(a[j] + i[j] + ci * before);
      const forget = sigmoid(a[H + j] + f[j] + cf * before);
      c[j] = forget * before + input * Math.tanh(a[2 * H + j] + g[j]);
      h[j] = sigmoid(a[3 * H + j] + o[j] + co * c[j]) * Math.tanh(c[j]);
    }
  },
  gru(layer, a, s, H) {
    const [h] = s, [r, z, n] = [0, 1, 2].map((gate) => layer.hidden(gate, h));
    for (let j = 0; j < H; j++) {
      const reset = sigmoid(a[j] + r[j]), update = sigmoid(a[H + j] + z[j]);
      const candidate = Math.tanh(a[2 * H + j] + reset * n[j]);
      h[j] = (1 - update) * candidate + update * h[j];
    }
  },
  "gru-original"(layer, a, s, H) {
    const [h] = s, r = layer.hidden(0, h), z = layer.hidden(1, h);
    const n = layer.hidden(2, h.map((x, j) => x * sigmoid(a[j] + r[j])));
    for (let j = 0; j < H; j++) {
      const update = sigmoid(a[H + j] + z[j]);
      h[j] = (1 - update) * Math.tanh(a[2 * H + j] + n[j]) + update * h[j];
    }
  },
};
CELLS["lstm-peephole"] = CELLS.lstm;

class Layer {
  constructor(data, H, M) {
    this.H = H;
    this.width = H / M; // of a block
    this.inputWeight = data.input && decodeTensor(data.input);
    this.hiddenWeight = decodeTensor(data.hidden);
    this.inputBias = decodeTensor(data.inputBias);
    this.hiddenBias = decodeTensor(data.hiddenBias);
    this.peepholes = data.peepholes && data.peepholes.map(decodeTensor);
    this.outputs = Array.from({ length: this.inputBias.length / H }, () => new Float32Array(H));
  }

  // W x + b (G H,); row r of the weights belongs to unit r % H, whose block reads a part of x.
  input(x, blockWidth) {
    const { H, width, inputWeight: W } = this, a = Float32Array.from(this.inputBias);
    for (let r = 0; r < a.length; r++) {
      const block = Math.floor((r % H) / width);
      a[r] += dot(W, r * blockWidth, x, block * blockWidth, blockWidth);
    }
    return a;
  }

  // U h + b (H,) of one gate.
  hidden(gate, h) {
    const { H, width, hiddenWeight: U, hiddenBias, outputs } = this, out = outputs[gate];
    for (let j = 0; j < H; j++) {
      const r = gate * H + j, first = j - (j % width);
      out[j] = hiddenBias[r] + dot(U, r * width, h, first, width);
    }
    return out;
  }
}

class Model {
  constructor(data) {
    Object.assign(this, data); // cell, units, blocks, states, recordEnd, lineStart, ...
    this.layers = data.layers.map((layer) => new Layer(layer, data.units, data.blocks));
    this.table = decodeTensor(data.table);
    this.tableWidth = this.table.length / data.rows;
    this.outputWeight = decodeTensor(data.outputWeight);
    this.outputBias = decodeTensor(data.outputBias);
    this.size = this.outputBias.length; // V
    this.starts = data.starts && {
      ...data.starts,
      states: decodeTensor(data.starts.states), // (K, layers, states, units)
    };
    this.ngrams = new Map(data.ngrams.map((ids, k) => [ids.join(), this.size + k]));
    this.longest = Math.max(1, ...data.ngrams.map((ids) => ids.length));
  }

  zeroState() {
    const { layers, states, units } = this;
    const hidden = layers.map(() => Array.from({ length: states }, () => new Float32Array(units)));
    return { hidden, recent: [] };
  }

  // Start k of a text: a state, and the ids that are read before the text.
  start(k) {
    const state = this.zeroState(), starts = this.starts;
    if (!starts) return { state, ids: this.recordEnd < 0 ? [] : [this.recordEnd] };
    const { states, units, layers } = this;
    let at = k * layers.length * states * units;
    for (const layer of state.hidden) {
      for (const s of layer) {
        s.set(starts.states.subarray(at, at + units));
        at += units;
      }
    }
    state.recent = starts.recent[k].filter((id) => id >= 0);
    return { state, ids: [starts.id] };
  }

  // Read an id; return the logits (V,) of the next one. The state changes.
  step(state, id) {
    if (id === this.recordEnd) Object.assign(state, this.zeroState());
    state.recent = [...state.recent, id].slice(-this.longest);
    let x = this.lookUp(state.recent);
    this.layers.forEach((layer, k) => {
      let gates = x;
      if (k > 0) gates = layer.input(x, this.units / this.blocks);
      else if (this.embeddingSize) gates = layer.input(x, this.embeddingSize / this.blocks);
      else for (let r = 0; r < gates.length; r++) gates[r] += layer.inputBias[r];
      CELLS[this.cell](layer, gates, state.hidden[k], this.units);
      x = state.hidden[k][0];
    });
    const logits = Float32Array.from(this.outputBias);
    for (let v = 0; v < logits.length; v++) {
      logits[v] += dot(this.outputWeight, v * this.units, x, 0, this.units);
    }
    return logits;
  }

  // The sum of the rows of the last id and of the n-grams that end with it.
  lookUp(recent) {
    const { table, tableWidth: width } = this, x = new Float32Array(width);
    for (let n = 1; n <= recent.length; n++) {
      const row = n === 1 ? recent.at(-1) : this.ngrams.get(recent.slice(-n).join());
      if (row === undefined) continue;
      for (let i = 0; i < width; i++) x[i] += table[row * width + i];
    }
    return x;
  }

  encode(text) {
    if (this.characters === null) return [...new TextEncoder().encode(text)];
    const ids = new Map([...this.characters].map((c, i) => [c, i]));
    const unknown = this.unknown < 0 ? [] : [this.unknown];
    return [...text].flatMap((c) => (ids.has(c) ? [ids.get(c)] : unknown));
  }
}

// softmax(logits), in float64.
function probabilities(logits, temperature = 1) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const p = Array.from(logits, (x) => Math.exp((x - highest) / temperature));
  const total = p.reduce((a, b) => a + b, 0);
  return p.map((x) => x / total);
}

// Random numbers from 0 to 1 (the generator sfc32 of PractRand).
function generator(seed) {
  let [a, b, c, d] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0x9e3779b9, 1];
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t | 0;
    return (t >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

// An id that may be written, drawn from the logits; temperature 0: the likeliest.
function draw(logits, writable, temperature, random) {
  const allowed = logits.map((x, i) => (writable[i] ? x : -Infinity));
  if (temperature === 0) return allowed.indexOf(Math.max(...allowed));
  const p = probabilities(allowed, temperature);
  let left = random(), last = 0;
  for (let i = 0; i < p.length; i++) {
    left -= p[i];
    if (p[i] > 0) last = i;
    if (left < 0) return i;
  }
  return last;
}

// Yields {id, surprise} of each id after the prime, without end.
function* write(model, prime, temperature, seed) {
  const random = generator(seed);
  const count = model.starts ? model.starts.recent.length : 1;
  const { state, ids } = model.start(temperature === 0 ? 0 : Math.floor(random() * count));
  const primeIds = model.encode(prime);
  const read = ids.length && primeIds[0] === ids[0] ? primeIds : [...ids, ...primeIds];
  if (!read.length) read.push(model.lineStart);
  let logits;
  for (const id of read) logits = model.step(state, id);
  for (;;) {
    const id = draw(logits, model.writable, temperature, random);
    yield { id, surprise: -Math.log(probabilities(logits)[id]) };
    logits = model.step(state, id);
  }
}

// Turns ids into text as it becomes complete: a character of several bytes comes with its last one.
function decoder(model) {
  if (model.characters !== null) {
    const symbols = [...model.characters];
    return (id) => (id === model.separatorId ? model.separator : symbols[id]);
  }
  const utf8 = new TextDecoder();
  return (id) => utf8.decode(Uint8Array.of(id), { stream: true });
}

if (typeof module !== "undefined") module.exports = { Model, probabilities, write, decoder };
