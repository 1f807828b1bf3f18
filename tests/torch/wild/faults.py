"""Faults that the step had, or could have, put back one at a time: the machine must find each of them."""

from unittest import mock

import torch
from torch import Tensor

from gc_torch import kept, memory, optimizer, prepare, rows, signature, step
from gc_torch.kernels_cpu import steps


def _always(value):
    """A function of that value; a mock would keep what it was called with alive."""
    return lambda *arguments, **options: value


def shapes_are_not_compared():
    """A preparation is used for tensors of another shape: the kernel writes beside them."""
    return mock.patch.object(signature.Looks, "are_of", _always(True))


def strides_are_not_compared():
    def are_of(looks, tensors):
        return [x.shape for x in tensors] == looks.shapes and signature._lies(tensors) == looks._lies

    class Weaker(signature.Looks):
        def __init__(self, tensors):
            super().__init__(tensors)
            self.shapes = [x.shape for x in tensors]

    Weaker.are_of = are_of
    return mock.patch.object(kept, "Looks", Weaker)


def storages_are_not_compared():
    """A storage has shrunk, and what reaches beyond it is still taken for proven."""
    return mock.patch.object(signature, "_lies", _always(()))


def memory_is_not_proven():
    """A step on a storage that was freed goes ahead."""
    return mock.patch.multiple(memory, outside=lambda x: "", is_addressable=lambda x: True)


def versions_stay():
    """What was written has its old version."""
    return mock.patch.object(memory, "say_written", _always(None))


def parameters_are_kept():
    """A strong reference to every parameter that was seen."""
    seen, current = [], rows.Rows.current

    def keeping(own, index, params, **how):
        seen.append(list(params))
        return current(own, index, params, **how)

    return mock.patch.object(rows.Rows, "current", keeping)


def replaced_parameters_are_not_noticed():
    """The rows of a group are those that were found first."""
    current = rows.Rows.current

    def first(own, index, params, **how):
        found = own._rows[index] if index < len(own._rows) else None
        return found if found is not None and len(found) == len(params) else current(own, index, params, **how)

    return mock.patch.object(rows.Rows, "current", first)


def owners_are_not_asked():
    """What the plan does not know by identity gets the shape rule."""

    def by_plan_alone(self, unknown):
        if self.plan is not None:
            known = {key: self.plan.row_of(p) for key, p in unknown.items()}
            yield rows.Source.PLAN, {key: rows._Named(row) for key, row in known.items() if row}

    return mock.patch.object(rows.Rows, "_owned", by_plan_alone)


def places_are_not_asked():
    """Master weights get the shape rule."""
    return mock.patch.object(rows, "_in_place", _always(None))


def options_are_not_compared():
    return mock.patch.object(step, "deciding", _always(()))


def missing_gradients_are_not_compared():
    of = kept.signature
    return mock.patch.object(kept, "signature", lambda *args: of(*args)._replace(with_grad=[]))


def every_step_is_checked_as_a_constructor():
    """A learning rate a hair below 0 ends the training."""
    check = optimizer.SGD.check
    adam = optimizer.Adam.check

    class Both:
        def __enter__(self):
            optimizer.SGD.check = lambda self, group, *, in_step=False: check(self, group)
            optimizer._AdamSteps.check = lambda self, group, *, in_step=False: adam(self, group)

        def __exit__(self, *exception):
            optimizer.SGD.check, optimizer._AdamSteps.check = check, adam

    return Both()


def states_are_made_in_inference_mode():
    return mock.patch.object(step.torch, "is_inference_mode_enabled", _always(False))


def nesterov_without_a_buffer():
    """Where a schedule takes the momentum away, the kernel writes to a buffer that is not there."""
    rule = steps._rule

    def older(kind, group):
        return steps.NESTEROV if kind == "sgd" and group["nesterov"] else rule(kind, group)

    return mock.patch.object(steps, "_rule", older)


def gradients_are_changed():
    """PyTorch's foreach Nesterov adds the momentum to p.grad in place."""
    torch_step = optimizer.SGD.torch_step

    def shared(self, group, taken, columns, grad_scale, found_inf):
        with mock.patch.object(Tensor, "clone", lambda x, **how: x):
            torch_step(self, group, taken, columns, grad_scale, found_inf)

    return mock.patch.object(optimizer.SGD, "torch_step", shared)


def scratch_on_the_default_device():
    """Temporaries are made where the user's default device is."""
    zeros_like = torch.zeros_like
    return mock.patch.object(
        prepare.torch,
        "zeros_like",
        lambda x, **how: torch.zeros(x.shape, dtype=x.dtype) if not how else zeros_like(x, **how),
    )


FAULTS = {
    name: put_back
    for name, put_back in list(globals().items())
    if callable(put_back) and getattr(put_back, "__module__", "") == __name__ and not name.startswith("_")
}
