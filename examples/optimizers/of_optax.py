"""Runs Optax's optimizers, and those of `optax.contrib`, behind `centralize_gradients` in a chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import gc_jax as gct
from examples.optimizers.found import Found, Step, Verdict

E, L = Step.ELEMENTWISE, Step.LINEAR
OPTAX: dict[str, tuple[Step, Callable[[], Any]]] = {
    **{
        name: (E, lambda name=name: getattr(optax, name)(0.05))
        for name in (
            "adabelief", "adadelta", "adagrad", "adam", "adamax", "adan", "amsgrad", "lamb", "nadam",
            "optimistic_adam", "optimistic_adam_v2", "radam", "rmsprop", "sm3", "yogi",
        )
    },
    **{
        name: (E, lambda name=name: getattr(optax, name)(0.05, weight_decay=0.0))
        for name in ("adamaxw", "adamw", "nadamw")
    },
    "adafactor": (Step.FACTORED, lambda: optax.adafactor(0.05, min_dim_size_to_factor=2)),
    "fromage": (Step.SHRINKS, lambda: optax.fromage(0.05)),
    "lars": (L, lambda: optax.lars(0.05)),
    "lbfgs": (Step.NEWTON, lambda: optax.lbfgs(0.05, linesearch=None)),
    "lion": (Step.SIGN, lambda: optax.lion(0.05, weight_decay=0.0)),
    "noisy_sgd": (Step.NOISE, lambda: optax.noisy_sgd(0.05)),
    "novograd": (L, lambda: optax.novograd(0.05)),
    "optimistic_gradient_descent": (L, lambda: optax.optimistic_gradient_descent(0.05)),
    "polyak_sgd": (L, lambda: optax.polyak_sgd(0.05)),
    "rprop": (Step.SIGN, lambda: optax.rprop(0.05)),
    "sgd": (L, lambda: optax.sgd(0.05, 0.9)),
    "sign_sgd": (Step.SIGN, lambda: optax.sign_sgd(0.05)),
}  # fmt: skip
CONTRIB: dict[str, tuple[Step, Callable[[], Any]]] = {
    **{
        name: (E, lambda name=name: getattr(contrib, name)(0.05))
        for name in (
            "acprop",
            "ademamix",
            "adopt",
            "madgrad",
            "momo_adam",
            "simplified_ademamix",
            "schedule_free_adamw",
        )
    },
    "cocob": (E, lambda: contrib.cocob()),
    "dadapt_adamw": (E, lambda: contrib.dadapt_adamw()),
    "dog": (L, lambda: contrib.dog(1.0)),
    "dowg": (L, lambda: contrib.dowg(1.0)),
    "mechanize": (L, lambda: contrib.mechanize(optax.sgd(0.05), weight_decay=0.0)),
    "momo": (L, lambda: contrib.momo(0.05)),
    "muon": (Step.ORTHOGONAL, lambda: contrib.muon(0.05, weight_decay=0.0)),
    "prodigy": (E, lambda: contrib.prodigy(1.0)),
    "sam": (L, lambda: contrib.sam(optax.sgd(0.05), optax.chain(contrib.normalize(), optax.sgd(0.1)), sync_period=2)),
    "schedule_free_sgd": (L, lambda: contrib.schedule_free_sgd(0.05)),
}
ROUNDS = 8  # radam begins as sgd with momentum does
TAKE_THE_LOSS = ("polyak_sgd", "lbfgs", "contrib.momo", "contrib.momo_adam", "contrib.mechanize")


def look_at(name: str, step: Step, make: Callable[[], Any]) -> Found:
    """Run it: behind GC in a chain, and on gradients centralized by hand."""
    try:
        loss = name in TAKE_THE_LOSS
        got, moved, drift = _trained(optax.chain(gct.centralize_gradients("out_last"), make()), loss, by_hand=False)
        wanted, _, _ = _trained(optax.chain(optax.identity(), make()), loss, by_hand=True)
    except Exception as raised:  # whatever it is, the page says it
        return Found(name, (Verdict.REFUSED,), None, step, f"{type(raised).__name__}: {raised}".splitlines()[0])
    same = all(jnp.allclose(a, b, rtol=0, atol=1e-5 * moved) for a, b in zip(got, wanted, strict=True))
    return Found(name, (Verdict.WORKS if same else Verdict.DIFFERENT,), drift, step)


def _trained(tx: Any, takes_the_loss: bool, *, by_hand: bool) -> tuple[list[Any], float, float]:
    """The weights after some steps, the largest move of one, and how far means drifted, relative to that."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"kernel": jax.random.normal(keys[0], (12, 8)), "last": {"kernel": jax.random.normal(keys[1], (8, 3))}}
    x, y = jax.random.normal(keys[2], (16, 12)), jax.random.normal(keys[3], (16, 3))

    def loss_of(params: Any) -> Any:
        return jnp.square(jnp.tanh(x @ params["kernel"]) @ params["last"]["kernel"] - y).mean()

    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params)
        if by_hand:
            grads = jax.tree.map(lambda g: g - g.sum(0) / g.shape[0], grads)
        more = {"value": loss, "grad": grads, "value_fn": loss_of} if takes_the_loss else {}
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    start, state = params, tx.init(params)
    for _ in range(ROUNDS):
        params, state = step(params, state)
    moves = [b - a for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(params), strict=True)]
    moved = max(float(jnp.abs(move).max()) for move in moves)
    drift = max(float(jnp.abs(move.mean(0)).max()) for move in moves)
    return jax.tree.leaves(params), moved, drift / moved
