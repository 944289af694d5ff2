"""Write pytorch*.safetensors: PyTorch's results for fixed weights, inputs and gradients.

Run it by hand where torch is installed, and check the difference before committing it:

    python tests/golden/make_pytorch_fixtures.py

For each of nn.RNN, nn.LSTM, nn.GRU with one and two layers, one-hot and embedding input:
`<cell>-<layers>-<input>/x`, `/y` (T, N), `/state` (L, S, N, H), `/weight/<name>` in float32;
`/float32/...` and `/float64/...` hold `logits`, `loss`, `end_state`, `gradient/<name>` and
`gradient/state`, computed in that precision. `optim/start`, `/gradients`, `/rates` are the inputs
of every optimizer; `optim/<case>` (steps, size) are the parameters after each step.

pytorch-ngrams.safetensors has two more cases, which know n-grams `/ngrams/2` and `/ngrams/3`, each
(K, n): the input of `lstm-1-multi-hot` has an element for each of them, and `gru-1-bag` adds up the
embeddings of the character and of its n-grams.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

MODULES = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
T, N, V, H, E = 5, 3, 11, 8, 6
OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.95}),
    "adagrad": (torch.optim.Adagrad, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


class LanguageModel(torch.nn.Module):
    """The parts embedding (if any), rnn and output, as charrnn names its tensors."""

    def __init__(self, cell, num_layers, embedding_size, ngrams):
        super().__init__()
        self.ngrams, inputs = ngrams, V + len(ngrams)
        if embedding_size:
            self.embedding = torch.nn.EmbeddingBag(inputs, embedding_size, mode="sum")
        self.rnn = MODULES[cell](embedding_size or inputs, H, num_layers)
        self.output = torch.nn.Linear(H, V)

    def forward(self, x, state):
        bags = [self.bag(x[: t + 1, n].tolist()) for t in range(T) for n in range(N)]
        if hasattr(self, "embedding"):
            starts = np.cumsum([0, *map(len, bags[:-1])])
            v = self.embedding(torch.tensor(sum(bags, [])), torch.tensor(starts))
        else:
            v = torch.zeros(T * N, V + len(self.ngrams), dtype=self.output.weight.dtype)
            for row, bag in zip(v, bags, strict=True):
                row[bag] = 1
        v = v.reshape(T, N, -1)
        parts = tuple(part.contiguous() for part in state.unbind(1))
        outputs, end = self.rnn(v, parts if len(parts) > 1 else parts[0])
        end_state = torch.stack(end if isinstance(end, tuple) else (end,), 1)
        return self.output(outputs), end_state

    def bag(self, ids):
        """The numbers of the inputs after these ids: the last id and the n-grams that end there."""
        return [ids[-1], *(V + k for k, g in enumerate(self.ngrams) if ids[-len(g) :] == g)]


def model_case(cell, num_layers, embedding_size, rng, ids=None):
    """{key: array} of one model; with n-grams of x if x and y (2, T, N) are given."""
    tables = {} if ids is None else ngrams_in(ids[0])
    ngrams = [ngram for table in tables.values() for ngram in table.tolist()]
    model = LanguageModel(cell, num_layers, embedding_size, ngrams)
    weights = {
        name: rng.uniform(-0.5, 0.5, p.shape).astype(np.float32)
        for name, p in model.named_parameters()
    }
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    x, y = rng.integers(0, V, (2, T, N)) if ids is None else ids
    states = 2 if cell == "lstm" else 1
    state = rng.uniform(-0.5, 0.5, (num_layers, states, N, H)).astype(np.float32)
    case = {"x": x, "y": y, "state": state} | tables
    case |= {f"weight/{name}": w for name, w in weights.items()}
    for dtype in (torch.float32, torch.float64):
        results = forward_and_backward(model.to(dtype), x, y, torch.tensor(state, dtype=dtype))
        case |= {f"{str(dtype).removeprefix('torch.')}/{key}": a for key, a in results.items()}
    return case


def forward_and_backward(model, x, y, state):
    model.zero_grad()
    state.requires_grad_()
    logits, end_state = model(torch.tensor(x), state)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(y).flatten())
    loss.backward()
    results = {"logits": logits, "loss": loss, "end_state": end_state, "gradient/state": state.grad}
    results |= {f"gradient/{name}": p.grad for name, p in model.named_parameters()}
    return {key: a.detach().numpy().copy() for key, a in results.items()}


def ngrams_in(x):
    """{key: (K, n)}: most pairs and triples in the columns of x, and one pair more."""
    columns = x.T.tolist()
    pairs = sorted({tuple(c[t : t + 2]) for c in columns for t in range(T - 1)})[1:]
    triples = {tuple(c[t : t + 3]) for c in columns for t in range(T - 2)}
    triples = sorted(triple for triple in triples if triple[:2] in pairs)[1:]
    pairs = sorted({*pairs, (V - 1, V - 1)})
    return {"ngrams/2": np.array(pairs), "ngrams/3": np.array(triples)}


def optimizer_cases(rng):
    """{key: array}: several steps of every optimizer from the same parameters and rates."""
    start, gradients = rng.standard_normal(19), rng.standard_normal((7, 19))
    rates = np.array([0.1, 0.1, 0.05, 0.05, 0.02, 0.01, 0.0])
    cases = {"start": start, "gradients": gradients, "rates": rates}
    for name, (make, options) in OPTIMIZERS.items():
        p = torch.nn.Parameter(torch.tensor(start))
        optimizer = make([p], **options)
        steps = []
        for g, rate in zip(gradients, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            p.grad = torch.tensor(g)
            optimizer.step()
            steps.append(p.detach().numpy().copy())
        cases[name] = np.array(steps)
    return cases


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tensors = {f"optim/{key}": a for key, a in optimizer_cases(rng).items()}
    for cell in MODULES:
        for num_layers in (1, 2):
            for embedding_size in (0, E):
                kind = "embedding" if embedding_size else "one-hot"
                case = model_case(cell, num_layers, embedding_size, rng)
                tensors |= {f"{cell}-{num_layers}-{kind}/{key}": a for key, a in case.items()}
    save("pytorch.safetensors", tensors)
    ids = rng.integers(0, V, (2, T, N))
    cases = {
        "lstm-1-multi-hot": model_case("lstm", 1, 0, rng, ids),
        "gru-1-bag": model_case("gru", 1, E, rng, ids),
    }
    tensors = {f"{name}/{key}": a for name, case in cases.items() for key, a in case.items()}
    save("pytorch-ngrams.safetensors", tensors)


def save(name, tensors):
    path = Path(__file__).with_name(name)
    save_file(tensors, path, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
