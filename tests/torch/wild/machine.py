"""Training code changes a model while it trains: any sequence of such changes, and every step right.

Run by hand: python -m tests.torch.wild.machine --sequences 5000. Each step is compared with what gc_core's rules make
of the same weights, gradients and states; parameters and states live between guard zones, which must stay as they
are; what is taken out of an optimizer must die; what was written must have a new version, and nothing else.
"""

import argparse
import copy
import gc
import io
import os
import sys
import traceback
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import nn

import gc_torch as gct

from . import oracle

GUARD = 24  # elements on either side
MARK = 77.25  # in every dtype exact
KINDS = {"sgd": gct.SGD, "adam": gct.Adam, "adamw": gct.AdamW}


def layer(kind, n):
    """A layer, with parameters of several shapes."""
    return {
        "linear": lambda: nn.Linear(3 + n, 4),
        "square": lambda: nn.Linear(5, 5, bias=False),
        "one": lambda: nn.Linear(1, 3),
        "conv": lambda: nn.Conv2d(2, 3 + n, (2, 1)),
        "transposed": lambda: nn.ConvTranspose1d(4, 4, 2, groups=1 + n % 2),
        "table": lambda: nn.Embedding(5, 5),
        "norm": lambda: nn.LayerNorm(4),
    }[kind]()


LAYERS = st.tuples(
    st.sampled_from(["linear", "square", "one", "conv", "transposed", "table", "norm"]), st.integers(0, 3)
)
SEEDS = st.integers(0, 2**31)
HOW = ["plain", "plain", "closure", "inference", "device", "dtype"]
PATHS = [{}, {"foreach": True}, {"foreach": False, "fused": False}, {"fused": True}]


class Training(RuleBasedStateMachine):
    """A model of a few layers, an optimizer, and what training code does to both."""

    @initialize(
        layers=st.lists(LAYERS, min_size=1, max_size=4), kind=st.sampled_from(list(KINDS)),
        bare=st.booleans(), groups=st.booleans(), dtype=st.sampled_from([torch.float64, torch.float32]), data=st.data(),
    )  # fmt: skip
    def begin(self, layers, kind, bare, groups, dtype, data):
        torch.manual_seed(0)
        self.guards = []  # (buffer, where the elements of a tensor are)
        self.orphans = {}  # id of a parameter that no layer owns -> its view
        self.kind = "sgd" if kind == "sgd" else "adam"
        self.model = nn.Sequential(*(layer(*one) for one in layers)).to(dtype)
        for p in self.model.parameters():
            p.data = self.guarded(p.data)
        params = list(self.model.parameters())
        if groups and len(params) > 1:
            given = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.1}]
        else:
            given = params if bare else self.model
        options = {"momentum": 0.5} if kind == "sgd" else {"eps": 0.1}
        self.optimizer = self.quietly(lambda: KINDS[kind](given, lr=0.1, **options))
        self.stepped = 0

    # ---- Helpers

    def quietly(self, call):
        """What is guessed or left out is said; here it is not what is tested."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gct.GCWarning)
            return call()

    def guarded(self, x, order=None):
        """A copy of a tensor in the middle of a buffer; with its axes in another order of memory."""
        order = list(range(x.ndim)) if order is None else order
        buffer = torch.full((2 * GUARD + x.numel(),), MARK, dtype=x.dtype)
        inside = buffer[GUARD : GUARD + x.numel()].view([x.shape[axis] for axis in order])
        back = [order.index(axis) for axis in range(x.ndim)]
        inside = inside.permute(back) if x.ndim else inside.view(x.shape)
        inside.copy_(x)
        self.guards.append(buffer)
        return inside

    def params(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def layers_of(self, p):
        owners = [(m, name) for m in self.model.modules() for name, q in m._parameters.items() if q is p]
        return [m for m, _ in owners], owners[0][1] if owners else ""

    def view(self, p):
        layers, name = self.layers_of(p)
        return self.orphans[id(p)] if not layers else oracle.view(layers, name, tuple(p.shape))

    def states(self, p):
        return self.optimizer.state.get(p, {})

    def choose(self, data, things):
        return things[data.draw(st.integers(0, len(things) - 1))]

    def meet(self):
        """The optimizer sees its parameters: of one that no layer owns it knows the place and the shape."""
        return self.quietly(lambda: self.optimizer.plan)

    def dies(self, params, do):
        """Do something that takes parameters out of the model and the optimizer: nothing may keep them alive."""
        refs = [weakref.ref(p) for p in params]
        params.clear()
        do()
        if any(ref() is not None for ref in refs):
            gc.collect()  # what refers to itself
        assert [ref() for ref in refs] == [None] * len(refs), "a parameter that was taken out is kept alive"

    def put(self, old, new, *, state):
        """Put a parameter in the place of another one in the optimizer, as densification does."""
        for group in self.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        moved = self.optimizer.state.pop(old, None)
        if state and moved:
            self.optimizer.state[new] = moved

    # ---- Steps

    @rule(data=st.data(), seed=SEEDS, how=st.sampled_from(HOW),
          times=st.integers(1, 3))  # fmt: skip
    def steps(self, data, seed, how, times):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(times):
            self.step(data, generator, how)

    def step(self, data, generator, how):
        before = {}
        for p in self.params():
            p.grad = None
            what = data.draw(st.sampled_from(["normal", "normal", "normal", "none", "zero", "strided"]))
            if what != "none" and p.requires_grad:
                grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) + 0.5
                grad = grad * 0 if what == "zero" else grad
                if what == "strided" and p.ndim == 2:
                    grad = grad.t().contiguous().t()
                p.grad = grad
            state = {name: x.double().numpy().copy() if torch.is_tensor(x) else x for name, x in self.states(p).items()}
            grad = None if p.grad is None else p.grad.double().numpy().copy()
            before[id(p)] = p.detach().double().numpy().copy(), grad, state, p._version

        if how == "closure":
            grads = [p.grad for p in self.params()]

            def closure():
                for p, grad in zip(self.params(), grads, strict=True):
                    p.grad = grad
                return torch.tensor(1.0)

            for p in self.params():
                p.grad = None
            self.quietly(lambda: self.optimizer.step(closure))
        elif how == "inference":
            with torch.inference_mode():
                self.quietly(self.optimizer.step)
        elif how == "device":
            torch.set_default_device("meta")
            try:
                self.quietly(self.optimizer.step)
            finally:
                torch.set_default_device(None)
        elif how == "dtype":
            torch.set_default_dtype(torch.float16)
            try:
                self.quietly(self.optimizer.step)
            finally:
                torch.set_default_dtype(torch.float32)
        else:
            self.quietly(self.optimizer.step)
        self.stepped += 1

        for group in self.optimizer.param_groups:
            for p in group["params"]:
                w, grad, state, version = before[id(p)]
                now = p.detach().double().numpy()
                if grad is None:
                    assert np.array_equal(now, w, equal_nan=True), "a parameter without a gradient has changed"
                    assert p._version == version, "a parameter that was not written has a new version"
                    continue
                assert np.array_equal(p.grad.double().numpy(), grad), "a gradient has changed"
                seen, axes = self.view(p)
                wanted, states = oracle.expected(self.kind, w, grad, state, group, seen, axes)
                assert oracle.close(now, wanted, p.dtype), (
                    tuple(p.shape),
                    axes,
                    np.abs(now - wanted.reshape(now.shape)).max(),
                )
                for name, x in states.items():
                    got = self.states(p)[name]
                    assert not got.is_inference()
                    assert oracle.close(got.double().numpy(), np.asarray(x, float), p.dtype), name
                assert p._version > version, "a parameter that was written has its old version"

    @invariant()
    def guard_zones_are_untouched(self):
        for buffer in getattr(self, "guards", ()):
            assert (buffer[:GUARD] == MARK).all() and (buffer[-GUARD:] == MARK).all(), "written beside a tensor"

    # ---- What training code does to parameters

    @rule(data=st.data(), order=st.randoms(use_true_random=False))
    def move(self, data, order):
        """p.data in other memory, of other strides; its states as well."""
        p = self.choose(data, self.params())
        axes = list(range(p.ndim))
        order.shuffle(axes)
        p.data = self.guarded(p.data, axes)
        if data.draw(st.booleans()):
            for name, x in list(self.states(p).items()):
                if torch.is_tensor(x) and x.shape == p.shape:
                    self.optimizer.state[p][name] = self.guarded(x, axes)

    @rule(data=st.data(), rows=st.integers(1, 9))
    def resize(self, data, rows):
        """Rows are pruned or grown: p.data and the states have another shape."""
        p = self.choose(data, self.params())
        layers, _ = self.layers_of(p)
        if p.ndim == 0 or any(isinstance(one, nn.ConvTranspose1d) for one in layers):
            return

        def sized(x):
            more = torch.full((max(0, rows - len(x)), *x.shape[1:]), 0.5, dtype=x.dtype)
            return self.guarded(torch.cat([x.detach()[:rows], more]))

        shape = p.shape
        p.data = sized(p.data)
        p.grad = None
        for key, x in list(self.states(p).items()):
            if torch.is_tensor(x) and x.shape == shape and x.ndim:
                self.optimizer.state[p][key] = sized(x)
        if id(p) in self.orphans:
            axes = self.orphans[id(p)][1]
            self.orphans[id(p)] = (tuple(p.shape), axes)
            self.meet()

    @rule(data=st.data(), state=st.booleans())
    def replace(self, data, state):
        """A new parameter of the same shape, in its layer and in the optimizer."""
        p = self.choose(data, self.params())
        layers, name = self.layers_of(p)
        new = nn.Parameter(self.guarded(p.detach()))
        if layers:
            for one in layers:
                setattr(one, name, new)
        else:
            self.orphans[id(new)] = self.orphans.pop(id(p))
        self.put(p, new, state=state)
        if not layers:
            self.meet()
        old = [p]
        del p
        self.dies(old, lambda: None)

    @rule(data=st.data(), one=LAYERS)
    def exchange_layer(self, data, one):
        """Another layer in the place of one; the optimizer is told by hand."""
        i = data.draw(st.integers(0, len(self.model) - 1))
        before = self.model[i]
        mine = [p for p in before.parameters() if not any(m is not before for m in self.layers_of(p)[0])]
        there = {id(p) for p in self.params()}
        if not mine or not all(id(p) in there for p in mine) or len(there) == len(mine):
            return
        new = layer(*one).to(mine[0].dtype)
        for p in new.parameters():
            p.data = self.guarded(p.data)
        self.model[i] = new
        fresh = list(new.parameters())
        for group in self.optimizer.param_groups:
            kept = []
            for p in group["params"]:
                if any(p is q for q in mine):
                    self.optimizer.state.pop(p, None)
                    if fresh and data.draw(st.booleans()):
                        kept.append(fresh.pop(0))
                else:
                    kept.append(p)
            group["params"] = kept
        if fresh:
            self.quietly(lambda: self.optimizer.add_param_group({"params": fresh}))
        p = before = None
        self.dies(mine, lambda: None)

    @rule(data=st.data())
    def master_weights(self, data):
        """A copy that no layer owns takes the place of a parameter in the optimizer alone."""
        p = self.choose(data, self.params())
        layers, _ = self.layers_of(p)
        if not layers:
            return
        self.meet()  # what was in the place, with its shape
        new = nn.Parameter(self.guarded(p.detach()))
        self.orphans[id(new)] = self.view(p)
        self.put(p, new, state=True)
        self.meet()

    @rule(data=st.data())
    def tie(self, data):
        """Two layers share a weight; the one that is no longer used leaves the optimizer."""
        # Of one kind: what a plan knows by identity stays as it was, whoever else reads it later.
        kind = data.draw(st.sampled_from([nn.Linear, nn.Embedding]))
        squares = [m for m in self.model if isinstance(m, kind) and m.weight.shape == (5, 5)]
        if len(squares) < 2:
            return
        a, b = squares[0], squares[1]
        there = {id(p) for p in self.params()}
        if a.weight is b.weight or not {id(a.weight), id(b.weight)} <= there or a.weight.dtype != b.weight.dtype:
            return
        old = b.weight
        b.weight = a.weight
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not old]
        self.optimizer.state.pop(old, None)
        old = [old]
        self.dies(old, lambda: None)

    @rule(data=st.data())
    def swap(self, data):
        """torch.utils.swap_tensors, as `module.to` may do it."""
        p = self.choose(data, self.params())
        p.grad = None
        other = nn.Parameter(self.guarded(p.detach() * 0.5), requires_grad=p.requires_grad)
        torch.utils.swap_tensors(p, other)

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def cast(self, dtype):
        self.model.to(dtype)
        for p in self.params():
            p.grad = None
            p.data = self.guarded(p.data.to(dtype))
            for name, x in list(self.states(p).items()):
                if torch.is_tensor(x) and x.ndim:
                    self.optimizer.state[p][name] = x.to(dtype)

    @rule(data=st.data())
    def freeze(self, data):
        p = self.choose(data, self.params())
        p.grad = None
        p.requires_grad_(not p.requires_grad)

    # ---- And to optimizers

    @rule(data=st.data(), lr=st.sampled_from([0.1, 0.01, -1e-18]), decay=st.sampled_from([0.0, 0.1]),
          gc_on=st.sampled_from(["gradient", "update", None]), maximize=st.booleans(),
          path=st.sampled_from(PATHS))  # fmt: skip
    def options(self, data, lr, decay, gc_on, maximize, path):
        group = self.choose(data, self.optimizer.param_groups)
        group.update(lr=lr, weight_decay=decay, gc_on=gc_on, maximize=maximize, foreach=None, fused=None)
        group.update(path)
        if self.kind == "sgd":
            group["momentum"] = data.draw(st.sampled_from([0.5, 0.5, 0.0]))
            group["nesterov"] = data.draw(st.booleans())
        else:
            group["betas"] = data.draw(st.sampled_from([(0.9, 0.99), [0.5, 0.9], np.array([0.8, 0.9])]))

    @rule(data=st.data(), seed=SEEDS, gc_on=st.sampled_from(["gradient", "update", None]), path=st.sampled_from(PATHS))
    def options_between_steps(self, data, seed, gc_on, path):
        """What the first steps have prepared is not what the last one does."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(2):
            self.step(data, generator, "plain")
        for group in self.optimizer.param_groups:
            group.update({"gc_on": gc_on, "foreach": None, "fused": None, **path})
        self.step(data, generator, "plain")

    @rule()
    def load(self):
        self.quietly(lambda: self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict())))

    @precondition(lambda self: not self.orphans)
    @rule(pickled=st.booleans())
    def copy_both(self, pickled):
        pair = (self.model, self.optimizer)
        self.guards.clear()
        if pickled:
            file = io.BytesIO()
            torch.save(pair, file)
            file.seek(0)
            self.model, self.optimizer = torch.load(file, weights_only=False)
        else:
            self.model, self.optimizer = copy.deepcopy(pair)

    @rule(data=st.data())
    def forget(self, data):
        """The states of a parameter are dropped."""
        self.optimizer.state.pop(self.choose(data, self.params()), None)

    @precondition(lambda self: len(self.optimizer.param_groups) > 1)
    @rule(data=st.data())
    def drop_group(self, data):
        i = data.draw(st.integers(0, len(self.optimizer.param_groups) - 1))
        group = self.optimizer.param_groups[i]
        for p in group["params"]:
            self.optimizer.state.pop(p, None)
        rest = [p for j, g in enumerate(self.optimizer.param_groups) if j != i for p in g["params"]]
        if rest:
            self.meet()  # of the places that were
            self.optimizer.param_groups.pop(i)
            self.meet()  # and those that are now

    @rule(data=st.data(), one=LAYERS)
    def grow(self, data, one):
        """One more layer, and its group."""
        if len(self.model) > 5:
            return
        new = layer(*one).to(next(iter(self.model.parameters())).dtype)
        self.model.append(new)
        self.quietly(lambda: self.optimizer.add_param_group({"params": list(new.parameters())}))

    @rule()
    def look(self):
        """Printing changes nothing, and shows every parameter."""
        text = self.quietly(lambda: repr(self.optimizer))
        assert f"{len(self.optimizer.param_groups[0]['params'])} parameters" in text
        plan = self.quietly(lambda: self.optimizer.plan)
        for p in self.params():
            row = plan.row_of(p)
            _, axes = self.view(p)
            if row is not None and row.shape == tuple(p.shape):
                assert row.axes == axes, (row, axes)

    @rule(data=st.data())
    def memory_is_gone(self, data):
        """A storage that was freed: an error, and nothing has changed."""
        p = self.choose(data, self.params())
        if not p.requires_grad or not p.numel():
            return
        for q in self.params():
            q.grad = torch.ones_like(q) if q.requires_grad else None
        kept = p.data
        others = [(q, q.detach().clone()) for q in self.params() if q is not p]
        p.data = torch.zeros_like(p)
        p.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="storage has 0 bytes"):
            self.quietly(self.optimizer.step)
        p.data = kept
        for q, before in others:
            assert torch.equal(q, before), "partly applied"


def run(sequences, steps=30, seed=None):
    """Run so many sequences."""
    how = dict(
        max_examples=sequences, stateful_step_count=steps, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=list(HealthCheck), print_blob=False,
        phases=[Phase.generate, Phase.shrink] if "--no-shrink" not in sys.argv else [Phase.generate],
    )  # fmt: skip
    import hypothesis

    machine = Training if seed is None else hypothesis.seed(seed)(Training)
    run_state_machine_as_test(machine, settings=settings(**how))


def find(fault, sequences, seed):
    """How the machine ends, in a process of its own, with one of page `faults` put back."""
    sys.stdout.flush()
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        return "found" if code == 1 else f"found: signal {-code}" if code < 0 else ("NOT FOUND", "", "BROKEN")[code]
    code = 0
    try:
        with FAULTS[fault]():
            run(sequences, seed=seed)
    except (TypeError, AttributeError):  # the page no longer fits the step: nothing was found
        traceback.print_exc()
        code = 2
    except BaseException:
        code = 1
    os._exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--fault", nargs="+", help="of page `faults`, put back one at a time")
    given = parser.parse_args()
    if given.fault:
        from .faults import FAULTS

        for name in given.fault:
            print(name, find(name, given.sequences, given.seed))
    else:
        run(given.sequences, seed=given.seed)
        print(f"{given.sequences} sequences held")
