"""The reference implementation of all that charrnn computes, in float64 and plain loops.

It is written from the published equations and shares no code with the package. It is slow: where a
line could be fast or read like the equation, it reads like the equation.

Every function of parameters also accepts complex numbers, so that `gradcheck` can differentiate it
by the complex step. Shapes: T time steps, N rows, V characters, E embedding, H hidden units,
L layers, S state vectors of a cell (2 for the LSTMs: h and c).
"""

import math
from types import SimpleNamespace

import numpy as np

# --- one step of each cell: x (D,), state (S, H), w the layer's weights -> new state (S, H) ---


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn(x, state, w):
    """Elman 1990: h' = tanh(W_ih x + b_ih + W_hh h + b_hh)."""
    (h,) = state
    return [np.tanh(w.weight_ih @ x + w.bias_ih + w.weight_hh @ h + w.bias_hh)]


def lstm(x, state, w):
    """Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    h, c = state
    i, f, g, o = np.split(w.weight_ih @ x + w.bias_ih + w.weight_hh @ h + w.bias_hh, 4)
    c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h_new = sigmoid(o) * np.tanh(c_new)
    return [h_new, c_new]


def lstm_peephole(x, state, w):
    """Gers & Schmidhuber 2000: i and f see the old c, o sees the new one."""
    h, c = state
    i, f, g, o = np.split(w.weight_ih @ x + w.bias_ih + w.weight_hh @ h + w.bias_hh, 4)
    i = sigmoid(i + w.weight_ci * c)
    f = sigmoid(f + w.weight_cf * c)
    c_new = f * c + i * np.tanh(g)
    o = sigmoid(o + w.weight_co * c_new)
    return [o * np.tanh(c_new), c_new]


def gru(x, state, w):
    """As PyTorch and cuDNN: the reset gate multiplies W_hn h + b_hn."""
    (h,) = state
    x_r, x_z, x_n = np.split(w.weight_ih @ x + w.bias_ih, 3)
    h_r, h_z, h_n = np.split(w.weight_hh @ h + w.bias_hh, 3)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    return [(1 - z) * n + z * h]


def gru_original(x, state, w):
    """Cho et al. 2014: the reset gate multiplies h, before W_hn."""
    (h,) = state
    W_hr, W_hz, W_hn = np.split(w.weight_hh, 3)
    b_hr, b_hz, b_hn = np.split(w.bias_hh, 3)
    x_r, x_z, x_n = np.split(w.weight_ih @ x + w.bias_ih, 3)
    r = sigmoid(x_r + W_hr @ h + b_hr)
    z = sigmoid(x_z + W_hz @ h + b_hz)
    n = np.tanh(x_n + W_hn @ (r * h) + b_hn)
    return [(1 - z) * n + z * h]


CELLS = {
    "rnn": rnn,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "gru": gru,
    "gru-original": gru_original,
}
GATES = {"rnn": 1, "lstm": 4, "lstm-peephole": 4, "gru": 3, "gru-original": 3}
STATES = {"rnn": 1, "lstm": 2, "lstm-peephole": 2, "gru": 1, "gru-original": 1}
# The gates with values from 0 to 1, by name: which of the GATES blocks of rows they are.
SIGMOID_GATES = {
    "rnn": {},
    "lstm": {"input": 0, "forget": 1, "output": 3},
    "lstm-peephole": {"input": 0, "forget": 1, "output": 3},
    "gru": {"reset": 0, "update": 1},
    "gru-original": {"reset": 0, "update": 1},
}
PEEPHOLES = {"rnn": "", "lstm": "", "lstm-peephole": "ifo", "gru": "", "gru-original": ""}  # gates


# --- the model: config has cell, vocab_size, hidden_size, num_layers, embedding_size, num_ngrams,
# record_end_id (-1: none)


def tensor_shapes(config):
    """{name: shape} of every parameter, in PyTorch's names."""
    V, H, E = config.vocab_size, config.hidden_size, config.embedding_size
    G, inputs = GATES[config.cell], V + config.num_ngrams
    shapes = {"embedding.weight": (inputs, E)} if E else {}
    for k in range(config.num_layers):
        D = H if k > 0 else E or inputs
        shapes[f"rnn.weight_ih_l{k}"] = (G * H, D)
        shapes[f"rnn.weight_hh_l{k}"] = (G * H, H)
        shapes[f"rnn.bias_ih_l{k}"] = (G * H,)
        shapes[f"rnn.bias_hh_l{k}"] = (G * H,)
        for gate in PEEPHOLES[config.cell]:
            shapes[f"rnn.weight_c{gate}_l{k}"] = (H,)
    return shapes | {"output.weight": (V, H), "output.bias": (V,)}


def random_params(config, rng, scale=0.5):
    """{name: array} with every tensor, biases too, uniform in [-scale, scale]."""
    return {n: rng.uniform(-scale, scale, shape) for n, shape in tensor_shapes(config).items()}


def random_problem(config, T, N, seed=0):
    """params, x, y (T, N), state (L, S, N, H): random, every character in x if T*N >= V."""
    rng = np.random.default_rng(seed)
    V, H, L = config.vocab_size, config.hidden_size, config.num_layers
    params = random_params(config, rng)
    x = rng.permutation(np.resize(rng.permutation(V), T * N)).reshape(T, N).astype(np.int32)
    y = rng.integers(0, V, (T, N), dtype=np.int32)
    return params, x, y, rng.uniform(-0.5, 0.5, (L, STATES[config.cell], N, H))


def layer_weights(params, k):
    """The tensors of layer k under their bare names: rnn.weight_ih_l0 -> weight_ih."""
    start, end = "rnn.", f"_l{k}"
    names = [n for n in params if n.startswith(start) and n.endswith(end)]
    return SimpleNamespace(**{n[len(start) : -len(end)]: params[n] for n in names})


def multi_hot(ids, vocab_size, ngrams=()):
    """The vector (V + K,) after `ids`: ones for the last id and for each n-gram that ends there.

    ngrams: the K known n-grams, tuples of ids; number k has element V + k.
    """
    hot = np.zeros(vocab_size + len(ngrams))
    hot[ids[-1]] = 1
    for k, ngram in enumerate(ngrams):
        if tuple(ids[-len(ngram) :]) == ngram:
            hot[vocab_size + k] = 1
    return hot


def input_vector(params, config, ids, ngrams=()):
    """The first layer's input after `ids`: a multi-hot vector, or the sum of its embeddings."""
    hot = multi_hot(ids, config.vocab_size, ngrams)
    return hot @ params["embedding.weight"] if config.embedding_size else hot


def forward(params, config, x, state, ngrams=(), before=()):
    """x (T, N) ids, state (L, S, N, H) -> logits (T, N, V), end state (L, S, N, H).

    An id that ends a record begins the next one: nothing before it counts.

    ngrams: the known n-grams, as of `multi_hot`.
    before: of each row, a list of the ids before x; by default there are none.
    """
    T, N = x.shape
    dtype = np.result_type(np.float64, state, *params.values())
    params = {name: np.asarray(a, dtype) for name, a in params.items()}
    step = CELLS[config.cell]
    layers = [layer_weights(params, k) for k in range(config.num_layers)]
    state = np.array(state, dtype)
    logits = np.zeros((T, N, config.vocab_size), dtype)
    for n in range(N):
        read = list(before[n]) if before else []
        for t in range(T):
            if x[t, n] == config.record_end_id:
                read, state[:, :, n] = [], 0
            read.append(int(x[t, n]))
            v = input_vector(params, config, read, ngrams)
            for k, weights in enumerate(layers):
                state[k, :, n] = step(v, state[k, :, n], weights)
                v = state[k, 0, n]
            logits[t, n] = params["output.weight"] @ v + params["output.bias"]
    return logits, state


def cross_entropy(logits, target):
    """-ln softmax(logits)[target], in nats."""
    logits = logits - logits.real.max()
    return np.log(np.exp(logits).sum()) - logits[target]


def loss(params, config, x, y, state, ngrams=(), before=()):
    """Mean cross-entropy over the T*N predictions, in nats, and the end state."""
    T, N = x.shape
    logits, end_state = forward(params, config, x, state, ngrams, before)
    total = sum(cross_entropy(logits[t, n], y[t, n]) for t in range(T) for n in range(N))
    return total / (T * N), end_state


def adapted_losses(params, config, start, ids, gradient, steps, rate, decay, ngrams=()):
    """-ln p of the ids by a model that learns from each `steps` of them once they are predicted.

    Krause et al. 2018, with Adam's mean square (Kingma & Ba 2015, beta2 0.999) in place of that of
    the training text, and one decay for all weights. The weights of n-grams stay as they are.

    start: the state (L, S, 1, H), the ids that led to it, and those read from there before `ids`.
    gradient: of a function of params, gradient(f, params) -> {name: array}.
    """
    state, read, before = start
    trained, losses, read = params, [], list(read)
    learned, v = ({name: np.zeros_like(a) for name, a in params.items()} for _ in range(2))
    for t, first in enumerate(range(0, len(ids), steps), 1):
        text = np.array([*before, *ids[first : first + steps]])
        before = text[-1:]
        x, y = text[:-1, None], text[1:, None]
        how = state, ngrams, [list(read)]
        logits, state = forward(params, config, x, *how)
        losses += [cross_entropy(p[0], i[0]) for p, i in zip(logits, y, strict=True)]
        g = gradient(lambda p, x=x, y=y, how=how: loss(p, config, x, y, *how)[0], params)
        read += x[:, 0].tolist()
        if config.embedding_size:
            g["embedding.weight"][config.vocab_size :] = 0
        else:
            g["rnn.weight_ih_l0"][:, config.vocab_size :] = 0
        for name in g:
            v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
            step = g[name] / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            learned[name] = (1 - rate * decay) * learned[name] - rate * step
        params = {name: trained[name] + learned[name] for name in g}
    return np.array(losses)


# --- bfloat16 ---


def bfloat16(x):
    """x rounded to 8 significant bits, ties to even, with float32's range; as a float."""
    if x == 0 or not math.isfinite(x):
        return x
    unit = 2.0 ** (max(math.frexp(x)[1] - 1, -126) - 7)
    y = round(x / unit) * unit
    return y if abs(y) < 2.0**128 else math.copysign(math.inf, x)


def rounded(a):
    """Every element rounded to bfloat16."""
    return np.array([bfloat16(float(v)) for v in a.ravel()]).reshape(a.shape)


def rounded_product(a, b):
    """a (M, K) @ b (K, N) with both rounded to bfloat16, summed in float64."""
    a, b = rounded(a), rounded(b)
    result = np.zeros((a.shape[0], b.shape[1]))
    for m in range(a.shape[0]):
        for n in range(b.shape[1]):
            for k in range(a.shape[1]):
                result[m, n] += a[m, k] * b[k, n]
    return result


# --- optimizers: (initial p, gradient of each step, learning rate of each step) -> p after each ---


def adam(p, gradients, rates, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0):
    """Kingma & Ba 2015, weight decay decoupled as in Loshchilov & Hutter 2019."""
    m = v = np.zeros_like(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        p = p - rate * weight_decay * p - rate * m_hat / (np.sqrt(v_hat) + epsilon)
        yield p


def cautious_adam(p, gradients, rates, beta1=0.7, beta2=0.99, epsilon=1e-8, weight_decay=0.0):
    """Liang et al. 2024, algorithm 2; the fraction is of elements with a gradient, per block."""
    m = v = np.zeros_like(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        mask = np.where(np.isnan(g), np.nan, m * g > 0)
        for i in range(0, len(p), 4096):
            agree, pulled = np.sum(mask[i : i + 4096] == 1), np.sum(g[i : i + 4096] != 0)
            mask[i : i + 4096] *= pulled / max(agree, 1)
        p = p - rate * weight_decay * p - rate * u * mask
        yield p


def rmsprop(p, gradients, rates, alpha=0.95, epsilon=1e-8):
    """Tieleman & Hinton 2012, epsilon outside the root as in Torch and PyTorch."""
    v = np.zeros_like(p)
    for g, rate in zip(gradients, rates, strict=True):
        v = alpha * v + (1 - alpha) * g**2
        p = p - rate * g / (np.sqrt(v) + epsilon)
        yield p


def adagrad(p, gradients, rates, epsilon=1e-10):
    """Duchi et al. 2011."""
    total = np.zeros_like(p)
    for g, rate in zip(gradients, rates, strict=True):
        total = total + g**2
        p = p - rate * g / (np.sqrt(total) + epsilon)
        yield p


def sgd(p, gradients, rates, momentum=0.9):
    """Heavy-ball momentum in PyTorch's form: the rate multiplies the whole velocity."""
    velocity = np.zeros_like(p)
    for g, rate in zip(gradients, rates, strict=True):
        velocity = momentum * velocity + g
        p = p - rate * velocity
        yield p


OPTIMIZERS = {
    "cautious-adam": cautious_adam,
    "adam": adam,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "sgd": sgd,
}


# --- the optimizer of rows: v' and the step of a weight with gradient g, as its optimizer's without
# momentum, by which a row without a gradient does not move; Adam's rates are tripled ---


def adam_row(v, g, t, rate):
    v = 0.99 * v + 0.01 * g**2
    return v, 3 * rate * g / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)


def rmsprop_row(v, g, t, rate):
    v = 0.95 * v + 0.05 * g**2
    return v, rate * g / (np.sqrt(v) + 1e-8)


def adagrad_row(v, g, t, rate):
    v = v + g**2
    return v, rate * g / (np.sqrt(v) + 1e-10)


def sgd_row(v, g, t, rate):
    return v, rate * g


ROW_RULES = {
    "cautious-adam": adam_row,
    "adam": adam_row,
    "rmsprop": rmsprop_row,
    "adagrad": adagrad_row,
    "sgd": sgd_row,
}


def row_steps(name, p, gradients, rates, weight_decay=0.0):
    """p (K, N) after each step; gradients are {row: gradient (N,)} of each step, the others zero.

    A row decays when it is used, by the rate of then, for all steps since its last use.
    """
    v, last = np.zeros_like(p), [0] * len(p)
    decay = weight_decay * (3 if "adam" in name else 1)
    for t, (used, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        p = p.copy()
        for k in range(len(p)):
            v[k], change = ROW_RULES[name](v[k], used.get(k, np.zeros_like(p[k])), t, rate)
            if k in used:
                p[k] = (1 - rate * decay) ** (t - last[k]) * p[k] - change
                last[k] = t
        yield p


def clip_value(g, limit):
    return np.array([max(-limit, min(limit, v)) for v in g])


def clip_norm(g, limit):
    """g scaled so that its Euclidean norm is at most limit, and the norm it had."""
    norm = math.sqrt(sum(v * v for v in g))
    return (g * (limit / norm) if norm > limit else g), norm


# --- schedules: the factor of the learning rate at `step` (from 0) of `total` ---


def constant(step, total):
    return 1.0


def cosine(step, total):
    return 0.5 * (1 + math.cos(math.pi * step / total))


def linear(step, total):
    return 1 - step / total


def exponential(epoch, decay, after):
    """char-rnn's schedule (Karpathy 2015): times `decay` after each epoch from number `after` on.

    epoch: the number of finished epochs.
    """
    factor = 1.0
    for finished in range(1, epoch + 1):
        if finished >= after:
            factor *= decay
    return factor


# --- sampling and the streams of training ---


def softmax(logits):
    e = np.exp(logits - np.max(logits))
    return e / e.sum()


def sample(
    logits, rng, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, allowed=None, recent=(), penalty=1
):
    """Sample one id. Of equally likely ids the lowest ranks first.

    allowed: the ids that may be sampled; None for all.
    recent: ids whose log-probability is multiplied by `penalty`.
    """
    scores = np.array(logits, np.float64)
    if allowed is not None:
        scores[[i for i in range(len(scores)) if i not in allowed]] = -np.inf
    if penalty != 1:
        with np.errstate(divide="ignore"):
            scores = np.log(softmax(scores))
        for i in set(recent):
            scores[i] *= penalty
    if temperature == 0:
        return int(np.argmax(scores))
    p = softmax(scores / temperature)
    order = sorted(range(len(p)), key=lambda i: (-scores[i], i))
    if top_k > 0:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p < 1:
        size, reached = 0, 0.0
        while reached < top_p and size < len(p):
            reached += p[order[size]]
            size += 1
        p[order[size:]] = 0
        p /= p.sum()
    p[p < min_p * p.max()] = 0
    p /= p.sum()
    return int(rng.choice(len(p), p=p))


def text(params, config, prime, rng, length, window=0, ngrams=(), **how):
    """Sample `length` ids after `prime` (at least one id), with the options of `sample`.

    window: how many last ids, those of the prime included, are `recent`.
    ngrams: the known n-grams, as of `multi_hot`.
    """
    state = np.zeros((config.num_layers, STATES[config.cell], 1, config.hidden_size))
    logits, state = forward(params, config, np.array(prime)[:, None], state, ngrams)
    ids = [int(i) for i in prime]
    for _ in range(length):
        recent = ids[len(ids) - min(window, len(ids)) :]
        i = sample(logits[-1, 0], rng, recent=recent, **how)
        logits, state = forward(params, config, np.array([[i]]), state, ngrams, [ids])
        ids.append(i)
    return ids[len(prime) :]


def chunks(ids, batch_size, seq_length):
    """All chunks (x, y) of an epoch, lists [t][b], of batch_size contiguous streams.

    y is one id ahead of x.
    """
    length = (len(ids) - 1) // batch_size
    streams = [ids[b * length : b * length + length + 1] for b in range(batch_size)]
    result = []
    for start in range(0, length, seq_length):
        end = min(start + seq_length, length)
        x = [[stream[t] for stream in streams] for t in range(start, end)]
        y = [[stream[t + 1] for stream in streams] for t in range(start, end)]
        result.append((x, y))
    return result
