"""Write pytorch.safetensors: PyTorch's results for fixed weights, inputs and gradients.

Run it by hand where torch is installed, and check the difference before committing it:

    python tests/golden/make_pytorch_fixtures.py

For each of nn.RNN, nn.LSTM, nn.GRU with one and two layers, one-hot and embedding input:
`<cell>-<layers>-<input>/x`, `/y` (T, N), `/state` (L, S, N, H), `/weight/<name>` in float32;
`/float32/...` and `/float64/...` hold `logits`, `loss`, `end_state`, `gradient/<name>` and
`gradient/state`, computed in that precision. `optim/start`, `/gradients`, `/rates` are the inputs
of every optimizer; `optim/<case>` (steps, size) are the parameters after each step.
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

    def __init__(self, cell, num_layers, embedding_size):
        super().__init__()
        if embedding_size:
            self.embedding = torch.nn.Embedding(V, embedding_size)
        self.rnn = MODULES[cell](embedding_size or V, H, num_layers)
        self.output = torch.nn.Linear(H, V)

    def forward(self, x, state):
        dtype = self.output.weight.dtype
        one_hot = torch.nn.functional.one_hot(x, V).to(dtype)
        v = self.embedding(x) if hasattr(self, "embedding") else one_hot
        parts = tuple(part.contiguous() for part in state.unbind(1))
        outputs, end = self.rnn(v, parts if len(parts) > 1 else parts[0])
        end_state = torch.stack(end if isinstance(end, tuple) else (end,), 1)
        return self.output(outputs), end_state


def model_case(cell, num_layers, embedding_size, rng):
    """{key: array} of one model."""
    model = LanguageModel(cell, num_layers, embedding_size)
    weights = {
        name: rng.uniform(-0.5, 0.5, p.shape).astype(np.float32)
        for name, p in model.named_parameters()
    }
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    x, y = rng.integers(0, V, (2, T, N))
    states = 2 if cell == "lstm" else 1
    state = rng.uniform(-0.5, 0.5, (num_layers, states, N, H)).astype(np.float32)
    case = {"x": x, "y": y, "state": state}
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
    path = Path(__file__).with_name("pytorch.safetensors")
    save_file(tensors, path, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
