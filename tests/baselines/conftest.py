"""Pictures with a bright half, and training written out for comparison."""

import numpy as np
import pytest
import torch


@pytest.fixture
def halves():
    """``halves(count, side, seed)``: grey 16 x 16 pictures (count, 1, 16, 16) in [0, 1], one half
    of them bright: "left", "right", "top" or "bottom"."""

    def make(count, side, seed=0):
        generator = torch.Generator().manual_seed(seed)
        image = 0.2 * torch.rand(count, 1, 16, 16, generator=generator)
        half = slice(8) if side in ("left", "top") else slice(8, None)
        where = (..., half) if side in ("left", "right") else (..., half, slice(None))
        image[where] += 0.7
        return image

    return make


@pytest.fixture
def train_by_hand():
    """``train_by_hand(make, loss, images, model)``: the network after plain training with Adam.

    As a baseline does it with ``model``'s parameters, from its seed on, without an augmentation.
    """

    def train(make, loss, images, model):
        seed = int(np.random.RandomState(model.random_state).randint(np.iinfo(np.int32).max))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = make()
        optimizer = torch.optim.Adam(
            network.parameters(), model.learning_rate, weight_decay=model.weight_decay
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in range(model.epochs):
            order = torch.randperm(len(images), generator=generator)
            for rows in order.split(model.batch_size):
                value = loss(network, images[rows])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        return network

    return train
