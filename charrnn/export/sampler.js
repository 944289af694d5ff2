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

// A matrix whose rows are multiplied in segments of `height` rows. Four rows of a segment lie side by
// side in memory: one index serves four sums, which is three times as fast as row by row.
class Matrix {
  constructor(values, width, height) {
    Object.assign(this, { width, height, values: new Float32Array(values.length) });
    const fours = height - (height % 4); // rows of a segment that lie side by side
    for (let r = 0; r < values.length / width; r++) {
      const row = r % height, first = (r - row) * width;
      for (let k = 0; k < width; k++) {
        const within = row < fours ? (row - (row % 4)) * width + 4 * k + (row % 4) : row * width + k;
        this.values[first + within] = values[r * width + k];
      }
    }
  }

  // out[o + r] = the sum over k of row r of the segment times x[at + k].
  multiply(segment, x, at, out, o) {
    const { values: W, width, height } = this;
    let i = segment * height * width, r = 0;
    for (; r + 3 < height; r += 4) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let k = 0; k < width; k++, i += 4) {
        const v = x[at + k];
        a += W[i] * v;
        b += W[i + 1] * v;
        c += W[i + 2] * v;
        d += W[i + 3] * v;
      }
      out[o + r] = a;
      out[o + r + 1] = b;
      out[o + r + 2] = c;
      out[o + r + 3] = d;
    }
    for (; r < height; r++) {
      let sum = 0;
      for (let k = 0; k < width; k++, i++) sum += W[i] * x[at + k];
      out[o + r] = sum;
    }
  }
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
    Object.assign(this, { H, M, height: H / M }); // M blocks of `height` units
    const matrix = (tensor, rows) => {
      const values = decodeTensor(tensor);
      return new Matrix(values, values.length / rows, H / M);
    };
    this.inputBias = decodeTensor(data.inputBias);
    this.hiddenBias = decodeTensor(data.hiddenBias);
    const rows = this.inputBias.length;
    this.inputWeight = data.input && matrix(data.input, rows);
    this.hiddenWeight = matrix(data.hidden, rows);
    this.peepholes = data.peepholes && data.peepholes.map(decodeTensor);
    this.outputs = Array.from({ length: rows / H }, () => new Float64Array(H));
  }

  // W x (G H,); each block reads its part of x.
  input(x) {
    const { H, M, height, inputWeight: W } = this, a = new Float64Array(this.inputBias.length);
    for (let segment = 0; segment < (a.length / H) * M; segment++) {
      W.multiply(segment, x, (segment % M) * W.width, a, segment * height);
    }
    return a;
  }

  // U h + b (H,) of one gate.
  hidden(gate, h) {
    const { H, M, height, hiddenWeight: U, hiddenBias, outputs } = this, out = outputs[gate];
    for (let m = 0; m < M; m++) U.multiply(gate * M + m, h, m * height, out, m * height);
    for (let j = 0; j < H; j++) out[j] += hiddenBias[gate * H + j];
    return out;
  }
}

class Model {
  constructor(data) {
    Object.assign(this, data); // cell, units, blocks, states, recordEnd, lineStart, ...
    this.layers = data.layers.map((layer) => new Layer(layer, data.units, data.blocks));
    this.table = decodeTensor(data.table);
    this.tableWidth = this.table.length / data.rows;
    this.outputBias = decodeTensor(data.outputBias);
    this.size = this.outputBias.length; // V
    this.outputWeight = new Matrix(decodeTensor(data.outputWeight), data.units, this.size);
    this.starts = data.starts && {
      ...data.starts,
      states: new Float32Array(decodeBytes(data.starts.states).buffer), // (K, layers, states, units)
    };
    this.ngrams = new Map(data.ngrams.map((ids, k) => [ids.join(), this.size + k]));
    this.longest = Math.max(1, ...data.ngrams.map((ids) => ids.length));
  }

  zeroState() {
    const { layers, states, units } = this;
    const hidden = layers.map(() => Array.from({ length: states }, () => new Float64Array(units)));
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
      const gates = layer.inputWeight ? layer.input(x) : x; // a one-hot input has been looked up
      for (let r = 0; r < gates.length; r++) gates[r] += layer.inputBias[r];
      CELLS[this.cell](layer, gates, state.hidden[k], this.units);
      x = state.hidden[k][0];
    });
    const logits = new Float64Array(this.size);
    this.outputWeight.multiply(0, x, 0, logits, 0);
    for (let v = 0; v < this.size; v++) logits[v] += this.outputBias[v];
    return logits;
  }

  // The sum of the rows of the last id and of the n-grams that end with it.
  lookUp(recent) {
    const { table, tableWidth: width } = this, x = new Float64Array(width);
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
