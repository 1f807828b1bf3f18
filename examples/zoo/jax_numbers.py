"""What numbers say of a JAX program's parameters: which of its weights feed the same output where it meets the data.

The program is run operation by operation. What is made of parameters alone is kept as a function of them; in the first
operation that also takes data, the derivatives of its outputs by every single weight are taken. Weights with an output
in common are one weight vector. No rule of an operation is known here, and none of what `gc_jax.plan` knows is used.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


class Node(NamedTuple):
    """A value of the program; `make` gives it for other values of these parameters."""

    value: Any
    params: frozenset[int] = frozenset()
    make: Callable[[dict[int, Any]], Any] | None = None
    data: bool = False


class Together(NamedTuple):
    """Of one operation: which weights it reads, and (weights, weights) which share an output."""

    reached: np.ndarray
    shared: np.ndarray
    data: bool  # it meets data there, and not only another parameter


def together(function: Callable[..., Any], params: Sequence[Any], data: Sequence[Any]) -> dict[int, list[Together]]:
    """What is seen of each parameter of `function(*params, *data)`, operation by operation.

    >>> (one,) = together(lambda w, x: x @ w, [jnp.ones((3, 2))], [jnp.ones((1, 3))])[0]
    >>> one.shared[0].reshape(3, 2)[:, 0].all(), one.shared[0].reshape(3, 2)[:, 1].any()
    (np.True_, np.False_)
    """
    closed = jax.make_jaxpr(function)(*params, *data)
    met: list[tuple[int, bool]] = []  # of the operations: the parameter, and whether it meets data

    @jax.jit  # in one program: it would be compiled operation by operation
    def feeds(params: Any, data: Any) -> list[Any]:
        found: list[tuple[int, bool, Any]] = []
        nodes = [Node(p, frozenset([i]), lambda values, i=i: values[i]) for i, p in enumerate(params)]
        nodes += [Node(x, data=True) for x in data]
        _run(closed.jaxpr, [*map(Node, closed.consts)], nodes, dict(enumerate(params)), found)
        met[:] = [(i, with_data) for i, with_data, _ in found]
        return [change for _, _, change in found]

    seen: dict[int, list[Together]] = {i: [] for i in range(len(params))}
    for change, (i, with_data) in zip(feeds(list(params), list(data)), met, strict=True):
        counts = np.asarray(change, np.float32)
        seen[i].append(Together(counts.any(0), counts.T @ counts > 0, with_data))
    return seen


def _run(jaxpr: Any, consts: Sequence[Node], nodes: Sequence[Node], known: Any, found: Any) -> list[Node]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *nodes], strict=True))

    def read(var: Any) -> Node:
        return Node(var.val) if isinstance(var, core.Literal) else env[var]

    for eqn in jaxpr.eqns:
        results = _step(eqn, [read(var) for var in eqn.invars], known, found)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _step(eqn: Any, nodes: list[Node], known: Any, found: Any) -> list[Node]:
    name = eqn.primitive.name
    if name == "scan":
        return _scan(eqn, nodes, known, found)
    if name == "cond" and not isinstance(nodes[0].value, jax.core.Tracer):
        branch = eqn.params["branches"][int(nodes[0].value)]
        return _run(branch.jaxpr, [*map(Node, branch.consts)], nodes[1:], known, found)
    for key in ("jaxpr", "call_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None and name != "while" and "reduce" not in name and "scatter" not in name:
            consts = getattr(inner, "consts", ())
            return _run(getattr(inner, "jaxpr", inner), [*map(Node, consts)], nodes, known, found)

    def bind(*values: Any, **changed: Any) -> list[Any]:
        out = eqn.primitive.bind(*values, **{**eqn.primitive.get_bind_params(eqn.params), **changed})
        return list(out) if eqn.primitive.multiple_results else [out]

    values = bind(*(node.value for node in nodes))
    data = any(node.data for node in nodes)
    pure = [node for node in nodes if node.make is not None]
    product = name in ("dot_general", "conv_general_dilated") and len(pure) == 2 and not pure[0].params & pure[1].params
    if pure and (data or product):
        for i in sorted(frozenset().union(*(node.params for node in pure))):
            if (change := _feeds(partial(bind, **_everywhere(eqn)), nodes, i, known)) is not None:
                found.append((i, data, change))
    if data or not pure:
        return [Node(value, data=data) for value in values]
    params = frozenset().union(*(node.params for node in pure))

    def make(at: int) -> Callable[[dict[int, Any]], Any]:
        return lambda some: bind(*(node.make(some) if node.make else node.value for node in nodes))[at]

    return [Node(value, params, make(at)) for at, value in enumerate(values)]


def _everywhere(eqn: Any) -> dict[str, Any]:
    """A convolution whose every output reads the whole kernel: without stride or dilation, and padded."""
    if eqn.primitive.name != "conv_general_dilated":
        return {}
    kernel = [eqn.invars[1].aval.shape[axis] for axis in eqn.params["dimension_numbers"].rhs_spec[2:]]
    ones = (1,) * len(kernel)
    return {
        "window_strides": ones,
        "lhs_dilation": ones,
        "rhs_dilation": ones,
        "padding": tuple((n - 1, n - 1) for n in kernel),
    }


def _feeds(bind: Any, nodes: Sequence[Node], i: int, known: dict[int, Any]) -> Any:
    """(outputs, weights): whether an output changes with a weight."""

    def outputs(weight: Any) -> Any:
        some = {**known, i: weight}
        out = bind(*(node.make(some) if node.make and i in node.params else node.value for node in nodes))
        out = [jnp.ravel(x) for x in out if jnp.issubdtype(x.dtype, jnp.floating)]
        return jnp.concatenate(out) if out else None

    if outputs(known[i]) is None:
        return None
    return jax.jacfwd(outputs)(known[i]).reshape(-1, known[i].size) != 0


def _scan(eqn: Any, nodes: list[Node], known: Any, found: Any) -> list[Node]:
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    first, second = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    consts, carry, each = nodes[:first], nodes[first:second], nodes[second:]
    outs: list[list[Node]] = []
    for step in reversed(range(length)) if eqn.params["reverse"] else range(length):
        given = [_part(node, step) for node in each]
        results = _run(body.jaxpr, [*map(Node, body.consts)], [*consts, *carry, *given], known, found)
        carry = results[: second - first]
        outs.append(results[second - first :])
    if eqn.params["reverse"]:
        outs.reverse()
    return [*carry, *map(_all, zip(*outs, strict=True))]


def _part(node: Node, step: int) -> Node:
    make = node.make
    return node._replace(value=node.value[step], make=None if make is None else lambda some: make(some)[step])


def _all(parts: Sequence[Node]) -> Node:
    value = jnp.stack([part.value for part in parts])
    params = frozenset().union(*(part.params for part in parts))
    make = None
    if params:
        make = lambda some: jnp.stack([part.make(some) if part.make else part.value for part in parts])  # noqa: E731
    return Node(value, params, make, any(part.data for part in parts))


def vectors(shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Which weights of an array are one weight vector by a plan: (weights, weights).

    >>> vectors((2, 2), (1,)).astype(int).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    size = [1 if axis in axes else n for axis, n in enumerate(shape)]
    label = np.broadcast_to(np.arange(np.prod(size, dtype=int)).reshape(size), shape).reshape(-1)
    return label[:, None] == label[None, :]


def agrees(row: Any, seen: Sequence[Together]) -> Iterator[bool]:
    """For each operation that reads whole weight vectors of a row, whether they are those of the plan."""
    wanted = vectors(row.view, row.axes)
    for one in seen:
        some = one.reached
        whole = (wanted[some] <= some).all()
        if one.shared.all() > wanted.all():  # as where it is divided by a norm of all of it
            continue
        if one.data and whole and some.any():
            yield bool((one.shared[np.ix_(some, some)] == wanted[np.ix_(some, some)]).all())
