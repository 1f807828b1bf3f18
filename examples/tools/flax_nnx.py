"""Flax NNX with Optax.

    python -m examples.tools.flax_nnx

For GC the transformation changes, and is given the plan of the model.
"""

import optax
from flax import nnx

import gc_jax as gct
from examples.tools.digits import batches


def make_transformation(model):
    schedule = optax.cosine_decay_schedule(3e-3, 20)
    return gct.adamw(schedule, plan=gct.plan(model))  # was: optax.adamw(schedule)


def train(make_transformation=make_transformation):
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(64, 32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs), nnx.gelu, nnx.Linear(32, 10, rngs=rngs)
    )
    clipped = optax.chain(optax.clip_by_global_norm(1.0), make_transformation(model))
    optimizer = nnx.Optimizer(model, clipped, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        def loss_of(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer, images, labels)) for images, labels in batches(64, 20)]
    return model, optimizer, losses


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
