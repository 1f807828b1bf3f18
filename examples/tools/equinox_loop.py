"""Equinox.

    python -m examples.tools.equinox_loop

For GC the transformation changes, and is given the plan of the model.
"""

import equinox as eqx
import jax
import optax

import gc_jax as gct
from examples.tools.digits import batches


def make_transformation(model):
    return gct.sgd(0.3, momentum=0.9, plan=gct.plan(model))  # was: optax.sgd(0.3, momentum=0.9)


def train(make_transformation=make_transformation):
    model = eqx.nn.MLP(64, 10, width_size=32, depth=2, key=jax.random.key(0))
    start = model
    transformation = make_transformation(model)
    state = transformation.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, images, labels):
        def loss_of(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(images), labels).mean()

        loss, grads = eqx.filter_value_and_grad(loss_of)(model)
        updates, state = transformation.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for images, labels in batches(64, 20):
        model, state, loss = step(model, state, images, labels)
        losses.append(float(loss))
    return start, model, losses


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
