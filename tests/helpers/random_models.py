"""Models with random parameters."""

import numpy as np

from charrnn.config import ModelConfig
from charrnn.network.model import Model

from . import naive


def model_of(cell, V=11, H=5, L=2, seed=1):
    """A model with large random weights and the parameters of its naive twin."""
    config = ModelConfig(V, cell, H, L)
    params = naive.random_params(config, np.random.default_rng(seed), 2.0)
    model = Model(config)
    model.load_state_dict({name: a.astype(np.float32) for name, a in params.items()})
    return model, params
