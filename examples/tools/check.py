"""Whether GC was at work in a training run, judged by what it leaves in the optimizer.

The momentum is a sum of gradients. With GC each of them has mean 0 over the fan-in of every output unit, and so has the
sum; decay, clipping, scaling and schedules do not change that.
"""

import numpy as np

import gc_torch as gct

# Where it should be 0, a mean is off by a few units of roundoff, 6e-8, of the largest gradient: less than this part of
# the size of the moments, unless they have cancelled to a thousandth. Without GC it is a fair part.
ROUNDING = 1e-3
FAIR_PART = 0.03


def left(moments) -> float:
    """The largest |mean| of the moments of a weight vector, over the size that those of its tensor have on average.

    Args:
        moments: pairs of an array and its fan-in axes.
    """
    moments = [(np.asarray(array, np.float64), axes) for array, axes in moments]
    assert moments and all(np.abs(array).max() > 0 for array, _ in moments)
    return max(np.abs(array.mean(axes)).max() / np.abs(array).mean() for array, axes in moments)


def of_torch(model, optimizer):
    """The moments of what GC centralizes in a model, in an optimizer of PyTorch or ours."""
    plan = gct.plan(model)
    for p in model.parameters():
        row, state = plan.row_of(p), optimizer.state[p]
        if row.axes is not None:
            moment = state["exp_avg"] if "exp_avg" in state else state["momentum_buffer"]
            yield moment.detach().reshape(row.view).numpy(), row.axes
