"""Keras 3, on its PyTorch and on its JAX backend, by `fit` or a loop of one's own.

    KERAS_BACKEND=torch python -m examples.tools.keras_fit
    KERAS_BACKEND=jax python -m examples.tools.keras_fit

For GC an optimizer of Keras gets an `apply` that centralizes what comes. The plan reads Keras's layers on any backend.
"""

import keras

import gc_jax
from examples.tools.digits import batches

if keras.backend.backend() == "jax":
    import gc_jax as gct
else:
    import gc_torch as gct


@keras.saving.register_keras_serializable("gc")
class Centralized(keras.optimizers.AdamW):
    def __init__(self, *args, rows=(), **options):
        super().__init__(*args, **options)
        self.rows = rows  # in the order of the model's variables, and saved with it: how each is seen, and its axes

    def centralize(self, model):
        self.rows = [[row.view, row.axes] for row in gc_jax.plan(model).rows]
        return self

    def get_config(self):
        return {**super().get_config(), "rows": [list(row) for row in self.rows]}

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        own = {id(variable): row for variable, row in zip(self._trainable_variables, self.rows, strict=True)}
        centralized = []
        for grad, variable in zip(grads, variables, strict=True):
            view, axes = own[id(variable)]
            axes = None if axes is None else tuple(axes)
            centralized.append(gct.centralize(grad.reshape(tuple(view)), axes).reshape(grad.shape))
        return super().apply(centralized, trainable_variables)


def make_optimizer(model):
    return Centralized(3e-3).centralize(model)  # was: keras.optimizers.AdamW(3e-3)


def train(make_optimizer=make_optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Conv2DTranspose(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    optimizer = make_optimizer(model)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ((images, labels),) = batches(512, 1)
    history = model.fit(images, labels, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return model, optimizer, history.history["loss"]


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
