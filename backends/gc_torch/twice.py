"""A weight that meets data twice: what it sums over the first time is not all that is to be known.

With gates g, y = Σ gₑ xᵢ W[e, i, o] is a mixture of the experts W[e], whose weight vectors run along i; and it is one
linear map of all the products gₑ xᵢ, whose run along e and i. Nothing in the program says which is meant. It is seen
either in the products, made before W comes, or in g W, which is then the weight of a product with several x. Where each
expert has given its output first, that says it. A parameter of a known layer needs none of this.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gc_core import axes as ax
from gc_core.axes import Axes, Piece
from gc_torch import operations as ops
from gc_torch.operations import Root

Given = dict[str, Axes]  # of the output of a product: which axes of each weight run along it


class Twice:
    """What is known of data in this respect. The tensors are not kept alive.

    >>> import torch
    >>> twice, x, g = Twice(), torch.ones(3, 1, 8), torch.ones(3, 4, 1)
    >>> products = x * g
    >>> twice.follow(ops.aten.mul, (x, g), products)
    >>> twice.is_outer(products)
    True
    """

    def __init__(self):
        self._outer, self._outputs = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()

    def is_outer(self, x: Any) -> bool:
        """Whether it has every number of some data times every number of other data."""
        return isinstance(x, Tensor) and x in self._outer

    def output(self, out: Tensor, roots: Mapping[str, Root], at: Sequence[int | None]) -> None:
        """Take down a product of data and a weight.

        Args:
            at: for each axis of the output, that of the weight which runs along it.
        """
        given = {
            name: tuple(ax.blank(n) if i is None else root.axes[i] for i, n in zip(at, out.shape, strict=True))
            for name, root in roots.items()
            if root.axes is not None
        }
        if given:
            self._outputs[out] = given

    def follow(self, packet: Any, args: Any, out: Any) -> None:
        """An operation on data alone: what is known of its first operand holds for a view of it."""
        x = args[0] if args else None
        if packet in ops.TIMES and len(args) > 1 and _is_outer_product(*args[:2]):
            self._outer[out] = True
        if not isinstance(x, Tensor) or packet not in ops.STRUCTURE:
            return
        if x in self._outer:
            self._outer[out] = True
        if (given := self._outputs.get(x)) is not None:
            change = ops.STRUCTURE[packet]
            rest = args[1:] if change not in (ops._same, ops._reshaped, ops._expanded) else ()
            self._outputs[out] = {name: change(axes, x, out, *rest) for name, axes in given.items()}

    def made_weights(self, x: Any, over: Sequence[int], kept: Sequence[int]) -> list[str]:
        """The parameters that have made the weight of a product that sums over these axes of it and keeps those."""
        given: Given | None = self._outputs.get(x) if isinstance(x, Tensor) else None
        return [name for name, axes in (given or {}).items() if _own(axes, over) and _own(axes, kept)]


def _own(axes: Axes, dims: Sequence[int]) -> list[Piece]:
    return [piece for dim in dims for piece in ax.leaves(axes[dim]) if not piece.blank]


def _is_outer_product(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim == b.ndim):
        return False
    pairs = list(zip(a.shape, b.shape, strict=True))
    return any(n > 1 == m for n, m in pairs) and any(m > 1 == n for n, m in pairs)
