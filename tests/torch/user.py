"""What a user writes, for a type checker in its strictest mode: test_types.py has pyright read it."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import gc_core
import gc_torch


def right() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    made = gc_torch.plan(model, {"0.weight": 1}, batch=torch.ones(1, 3), verify=(torch.ones(1, 3),))
    assert_type(made, gc_torch.ModelPlan)
    assert_type(made["0.weight"].axes, tuple[int, ...] | None)

    optimizer = gc_torch.SGD(model, lr=0.1, momentum=0.9, gc_on="update", plan=made, low_precision="kahan", seed=1)
    adam = gc_torch.AdamW([{"params": model.parameters(), "gc_on": None}], plan="out_first")
    assert_type(optimizer.plan, gc_torch.ModelPlan)
    optimizer.plan = "out_first"

    def closure() -> Tensor:
        return model(torch.ones(1, 3)).sum()

    def number() -> float:
        return 1.0

    assert_type(optimizer.step(closure), Tensor)  # torch's own promises a float
    assert_type(adam.step(number), float)
    optimizer.step()

    attached = gc_torch.attach(torch.optim.RMSprop(model.parameters()), model, where="backward")
    attached.remove()
    w = torch.ones(2, 3)
    assert_type(gc_torch.centralize(w, axis=1), Tensor)
    torch_state = gc_torch.sgdm_update(w, w, gc_torch.sgdm_init(w), lr=0.1, axis=1, gc_on="update")[1]
    assert_type(torch_state, gc_torch.SGDMState)

    array = np.ones((2, 3))
    assert_type(gc_core.fan_in_axes(array.shape, "out_last"), tuple[int, ...] | None)
    array, state = gc_core.sgdm_update(array, array, gc_core.sgdm_init(array), lr=0.1, axis=1, gc_on="update")
    adam_state = gc_core.adam_update(array, array, gc_core.adam_init(array), axis=1)[1]
    assert_type(adam_state, gc_core.AdamState)
    assert_type(state, gc_core.SGDMState)
    plan = gc_core.Plan([gc_core.Row("w", (2, 3), (2, 3), (1,), "mine")])
    assert_type(plan["w"].fan_in, int | None)
    driver = gc_core.SGD({"w": array}, {"w": 1}, lr=0.1, gc_on="gradient", low_precision="stochastic")
    driver.step({"w": array})


def wrong(model: nn.Module, optimizer: gc_torch.Adam, array: np.ndarray, state: gc_core.SGDMState) -> None:
    # Each of these is an error of its type before anything runs; pyright complains of a line that has none.
    gc_torch.SGD(model, gc_on="gradients")  # pyright: ignore[reportArgumentType]
    gc_torch.Adam(model, plan="out_last")  # pyright: ignore[reportArgumentType]
    gc_torch.Adam(model, low_precision="kahn")  # pyright: ignore[reportArgumentType]
    gc_torch.attach(optimizer, model, where="backwards")  # pyright: ignore[reportArgumentType]
    gc_core.fan_in_axes((2, 3), "in_first")  # pyright: ignore[reportArgumentType]
    gc_core.sgdm_update(array, array, state, lr=0.1, axis=1, gc_on="step")  # pyright: ignore[reportArgumentType]
