"""Train a PyTorch LSTM on random ids, with as little memory as possible; print its peak memory.

python torch_run.py VOCABULARY LAYERS HIDDEN BATCH SEQUENCE THREADS STEPS
"""

import sys

import torch
from torch.nn.functional import cross_entropy

vocabulary, layers, hidden, batch, length, threads, steps = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.set_flush_denormal(True)
embedding = torch.nn.Embedding.from_pretrained(torch.eye(vocabulary), freeze=False)
rnn = torch.nn.LSTM(vocabulary, hidden, layers)
output = torch.nn.Linear(hidden, vocabulary)
parameters = [*embedding.parameters(), *rnn.parameters(), *output.parameters()]
optimizer = torch.optim.Adam(parameters, 2e-3, (0.9, 0.99), fused=True)
state = None
for _ in range(steps):
    ids = torch.randint(vocabulary, (length + 1, batch))
    h, end = rnn(embedding(ids[:-1]), state)
    loss = cross_entropy(output(h).flatten(0, 1), ids[1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    state = tuple(s.detach() for s in end)
with open("/proc/self/status") as file:
    print(1024 * int(next(line.split()[1] for line in file if line.startswith("VmHWM"))))
