"""What is known of the tensors of a running program: which are made of parameters, and what was done with them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gc_core import axes as ax
from gc_core.axes import Axis, Piece
from gc_core.layouts import View
from gc_core.uses import Kind, Use
from gc_torch.compat import pytree
from gc_torch.operations import Made, Root
from gc_torch.twice import Twice


class Trace:
    """Which tensors are made of parameters, and in which operations these met the data.

    Args:
        parameters: by name.
        known: what is known of them by their layers.
        quiet: tensors that are neither parameters nor data: buffers and other constants of the model.
    """

    def __init__(self, parameters: Mapping[str, Tensor], known: Mapping[str, View], quiet: Iterable[Tensor]):
        self.uses: dict[str, list[Use]] = {name: [] for name in parameters}
        self.axes = {name: ax.of_parameter(parameter.shape) for name, parameter in parameters.items()}
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.known = known
        # By id; the tensors are kept, and so their ids their own.
        self.made: dict[int, tuple[Tensor, Made]] = {}
        self.quiet: dict[int, Tensor] = {id(x): x for x in quiet}
        self.twice = Twice()
        for name, parameter in parameters.items():
            self.made[id(parameter)] = (parameter, Made({name: Root(self.axes[name])}))

    def stand_in(self, name: str, x: Tensor) -> None:
        """From here on a tensor that was computed from a parameter is what the layer reads in its place."""
        self.uses[name].clear()
        made = self.weight(x)
        others = made.roots if made is not None else {}
        self.mark(x, Made({**others, name: Root(self.axes[name], function=True)}))

    def finish(self) -> None:
        """When the program has run: what was multiplied with data and went nowhere was multiplied."""
        for _, made in self.made.values():
            if made.times_data and not made.consumed:
                self.note(made, Kind.SCALED, "mul")
        self.made.clear()
        self.quiet.clear()

    def of(self, x: Any) -> Made | None:
        found = self.made.get(id(x)) if isinstance(x, Tensor) else None
        return found[1] if found else None

    def weight(self, x: Any) -> Made | None:
        """What a tensor is made of, if it is of parameters alone."""
        made = self.of(x)
        return None if made is None or made.times_data else made

    def is_data(self, x: Any) -> bool:
        return isinstance(x, Tensor) and self.weight(x) is None and id(x) not in self.quiet

    def mark(self, out: Any, made: Made | None, *, quiet: bool = False) -> None:
        """Say what the results of an operation are; without `made` and `quiet`, data."""
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor):
                self.made.pop(id(x), None)
                self.quiet.pop(id(x), None)
                if made is not None:
                    self.made[id(x)] = (x, made)
                elif quiet:
                    self.quiet[id(x)] = x

    def note(self, made: Made, kind: Kind, operation: str) -> None:
        if made.layer is not None and kind is not Kind.FACTOR:
            self.as_layer(made)
            return
        for name, root in made.roots.items():
            its = Kind.TABLE if root.looked_up and kind in (Kind.ADDED, Kind.INPUT, Kind.NORM) else kind
            self.use(name, Use(its, operation))

    def use(self, name: str, use: Use) -> None:
        if use not in self.uses[name]:
            self.uses[name].append(use)

    def consume(self, args: Any) -> None:
        """What was multiplied with data goes into an operation that is no sum."""
        for x in pytree.tree_leaves(args):
            made = self.of(x)
            if made is not None and made.times_data:
                made.consumed = True
                self.note(made, Kind.SCALED, "mul")

    def sum_over(self, made: Made, dims: list[int], operation: str, data: Any = None) -> None:
        """Take down a product of data and a weight that sums over these axes of the weight."""
        for name, root in made.roots.items():
            along = () if root.axes is None else tuple(piece for dim in dims for piece in root.axes[dim])
            if self.twice.is_outer(data) and len(self._axes_of(name, along)) > 1 and self.known[name].axes is None:
                self.use(name, Use(Kind.UNCLEAR, "it meets data twice, as gates and experts do"))
            self.sum(name, root, along, operation)

    def _axes_of(self, name: str, along: Axis) -> set[int]:
        """The axes of a parameter that these pieces are of."""
        pieces = set(ax.leaves(along))
        return {i for i, axis in enumerate(self.axes[name]) if pieces & set(ax.leaves(axis))}

    def made_weights(self, x: Any, over: list[int], kept: list[int]) -> None:
        """Take down what a product of data with data says of the parameters that one of them was made with."""
        for name in self.twice.made_weights(x, over, kept):
            self.use(name, Use(Kind.UNCLEAR, "with data it makes the weight of another product"))

    def sum(self, name: str, root: Root, along: Axis, operation: str) -> None:
        """Take down that an operation with data sums over these pieces of a parameter."""
        if root.axes is None:
            return self.use(name, Use(Kind.UNCLEAR, root.lost))
        summed: list[Piece] = []
        for piece in ax.leaves(along):
            if piece.loose and not piece.whole:
                return self.use(name, Use(Kind.UNCLEAR, "it sums over parts of weight vectors"))
            summed += piece.of if piece.loose else () if piece.blank else (piece,)
        left = [axis for axis in root.axes if not any(piece in along for piece in axis)]
        if root.looked_up and not any(not piece.blank for axis in left for piece in ax.leaves(axis)):
            return self.use(name, Use(Kind.TABLE, operation))
        if not summed and (root.factor or root.product):
            return self.use(name, Use(Kind.FACTOR if root.factor else Kind.SCALED, operation))
        flags = (root.function, root.product, root.factor)
        return self.use(name, Use(Kind.SUMMED, operation, tuple(summed), *flags))

    def as_layer(self, made: Made) -> None:
        assert made.layer is not None
        given, weight, axis = made.layer
        self.note(replace(given, layer=None), Kind.INPUT, "the input of a layer")
        self.sum_over(weight, [axis], "mm")
