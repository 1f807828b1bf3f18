"""The Numba kernel of gc_torch: odd sizes, other strides, shared memory, NaN, threads, forks, no Numba."""

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import gc_core
import gc_torch as gct
from gc_torch import kernels_cpu, path, table

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")

# Around the strip (512) and the kept steps (8192): rows, columns, both at once, and none. The last four are panels that
# threads share: one, one for each of two groups, two of one tensor, and one with a hundred rows side by side.
SHAPES = [
    ((5, 3), (1,)),
    ((300, 9), (1,)),
    ((3, 511), (1,)),
    ((3, 513), (1,)),
    ((2, 8193), (1,)),
    ((2, 20000), (1,)),
    ((70, 900), (0,)),
    ((9000, 3), (0,)),
    ((4, 6, 3, 3), (1, 2, 3)),
    ((2, 3, 4, 5), (1, 3)),
    ((2, 3, 4, 600), (1, 3)),
    ((1000,), (0,)),
    ((5, 1), (1,)),
    ((7,), None),
    ((70001,), None),
    ((0, 3), (1,)),
    ((3, 0), (1,)),
    ((270, 520), (0,)),
    ((2, 300, 4, 120), (1, 3)),
    ((135, 4100), (0,)),
    ((30000, 5), (0,)),
]
SGD = [
    dict(momentum=0.0),
    dict(momentum=0.9, dampening=0.3, weight_decay=0.1),
    dict(momentum=0.9, nesterov=True, weight_decay=0.1),
]
ADAM = [dict(amsgrad=amsgrad, weight_decay=decay) for amsgrad in (False, True) for decay in (0.0, 0.1)]
CASES = [
    (kind, dict(options, maximize=maximize, gc_on=on))
    for kind, every in (("SGD", SGD), ("Adam", ADAM), ("AdamW", ADAM))
    for options in every
    for maximize, on in itertools.product((False, True), ("gradient", "update"))
]


def parameters(dtype, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    params = [torch.nn.Parameter(torch.tensor(rng.standard_normal(shape)).to(dtype)) for shape, _ in shapes]
    rows = [gct.Row(str(i), shape, shape, None, "") for i, (shape, _) in enumerate(shapes)]
    plan = gct.ModelPlan(rows, {str(i): p for i, p in enumerate(params)})
    return params, plan.override({str(i): axes for i, (_, axes) in enumerate(shapes)})


def gradients(params, seed):
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = torch.tensor(rng.standard_normal(p.shape) + 0.5).to(p.dtype)


def made(kind, params, plan, **options):
    optimizer = getattr(gct, kind)(params, lr=0.1, plan=plan, **options)
    assert "implementation: Numba\n" in repr(optimizer)
    return optimizer


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_every_rule(kind, options):
    """Three steps in float64 against gc_core; in float32 against float64, from which it may differ by its rounding."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        params, plan = parameters(dtype)
        optimizer = made(kind, params, plan, **options, **({} if kind == "SGD" else {"eps": 1e-2}))
        w = [p.detach().double().numpy().copy() for p in params]
        states = [None] * len(w)
        for step in range(3):
            gradients(params, step + 1)
            optimizer.step()
            for i, (p, (_, axes)) in enumerate(zip(params, SHAPES, strict=True)):
                grad = p.grad.double().numpy() * (-1.0 if options["maximize"] else 1.0)
                rest = {key: value for key, value in options.items() if key != "maximize"}
                if kind == "SGD":
                    if step == 0:  # PyTorch's first step is undamped
                        rest["dampening"] = 0.0
                    states[i] = states[i] or gc_core.sgdm_init(w[i])
                    w[i], states[i] = gc_core.sgdm_update(w[i], grad, states[i], lr=0.1, axis=axes, **rest)
                else:
                    states[i] = states[i] or gc_core.adam_init(w[i], amsgrad=rest["amsgrad"])
                    w[i], states[i] = gc_core.adam_update(
                        w[i], grad, states[i], lr=0.1, axis=axes, eps=1e-2, decoupled=kind == "AdamW", **rest
                    )
        results[dtype] = params
        unit = torch.finfo(dtype).eps
        for p, expected, (shape, _) in zip(params, w, SHAPES, strict=True):
            # Numbers of at most 6, three steps of some twenty roundings. gc_core sums M numbers with about log2(M)
            # roundings, and Adam divides what is wrong in ĝ by at least eps, 1e-2, of which lr is taken.
            bound = unit * 6 * (60 + 3 * np.log2(max(expected.size, 2))) * (1 if kind == "SGD" else 10)
            np.testing.assert_allclose(p.detach().double().numpy(), expected, rtol=0, atol=bound, err_msg=str(shape))


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_bfloat16_is_rounded_once(kind, options):
    """Each step against gc_core in float64, from what the step before has stored; columns with GC on the update are not
    the kernel's."""
    params, plan = parameters(torch.bfloat16)
    rest = {key: value for key, value in options.items() if key != "maximize"}
    optimizer = getattr(gct, kind)(params, lr=0.1, plan=plan, **options, **({} if kind == "SGD" else {"eps": 1e-2}))
    assert "Numba" in repr(optimizer) and ("implementation: Numba\n" in repr(optimizer)) == (
        options["gc_on"] == "gradient"
    )

    def stored(p):
        return {name: x.double().numpy().copy() for name, x in optimizer.state.get(p, {}).items()}

    for step in range(2):
        gradients(params, step + 1)
        before = [(p.detach().double().numpy().copy(), stored(p)) for p in params]
        optimizer.step()
        for p, (w, state), (shape, axes) in zip(params, before, SHAPES, strict=True):
            grad = p.grad.double().numpy() * (-1.0 if options["maximize"] else 1.0)
            if kind == "SGD":
                damped = {"dampening": 0.0} if step == 0 else {}  # PyTorch's first step is undamped
                start = gc_core.SGDMState(state.get("momentum_buffer", np.zeros_like(w)))
                w, now = gc_core.sgdm_update(w, grad, start, lr=0.1, axis=axes, **{**rest, **damped})
            else:
                start = gc_core.adam_init(w, amsgrad=rest["amsgrad"])
                if state:
                    start = start._replace(**{**state, "step": int(state["step"])})
                w, now = gc_core.adam_update(
                    w, grad, start, lr=0.1, axis=axes, eps=1e-2, decoupled=kind == "AdamW", **rest
                )
            pairs = [
                (p.detach(), w),
                *((x, getattr(now, name)) for name, x in optimizer.state[p].items() if name != "step"),
            ]
            for got, expected in pairs:
                # What float32 adds to half a unit in the last place is bounded as above.
                bound = torch.finfo(torch.bfloat16).eps / 2 * abs(expected)
                bound += 2.0**-23 * 6 * (60 + 3 * np.log2(max(expected.size, 2))) * (1 if kind == "SGD" else 10)
                off = abs(got.double().numpy() - expected)
                assert (off <= bound).all(), f"{shape}, step {step}: {(off / bound).max()} bounds"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("on", ["gradient", "update"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_the_number_of_threads_changes_no_bit(kind, on, dtype):
    shapes = [*SHAPES, ((300, 700), (1,)), ((200, 3000), (0,)), ((200001,), None)]
    found = []
    for threads in (1, 2, 3, 7):
        params, plan = parameters(dtype, shapes=shapes)
        optimizer = getattr(gct, kind)(params, lr=0.1, plan=plan, gc_on=on, weight_decay=0.1)
        alone = dtype == torch.float32 or on == "gradient"
        assert "implementation: Numba\n" in repr(optimizer) if alone else "Numba" in repr(optimizer)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for step in range(2):
                gradients(params, step)
                optimizer.step()
        finally:
            torch.set_num_threads(before)
        found.append([p.detach().float().numpy().tobytes() for p in params])
    assert all(one == found[0] for one in found)
    assert len(kernels_cpu.work([table.geometry(p, plan.row_of(p)) for p in params])[0]) > len(params)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_nan_spoils_its_own_weight_vector_alone(kind):
    shapes = [((6, 40), (1,)), ((6, 3000), (1,)), ((40, 6), (0,)), ((270, 520), (0,)), ((3, 40, 2, 5), (1, 3))]
    for on in ("gradient", "update"):
        params, plan = parameters(torch.float32, shapes=shapes)
        gradients(params, 1)
        for p, place in zip(params, [(2, 7), (2, 2999), (7, 2), (7, 2), (1, 7, 1, 3)], strict=True):
            p.grad[place] = torch.nan
        made(kind, params, plan, gc_on=on).step()
        for p, vector in zip(
            params, [(2,), (2,), (slice(None), 2), (slice(None), 2), (1, slice(None), 1)], strict=True
        ):
            spoiled = torch.zeros(p.shape, dtype=torch.bool)
            spoiled[vector] = True
            assert torch.equal(p.isnan(), spoiled)


def test_memory_in_another_order_and_with_gaps():
    """channels_last and a transpose go through the kernel; a gradient with other strides and gaps take another path."""
    for change, taken in (
        (lambda x: x.to(memory_format=torch.channels_last), "Numba"),
        (lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), "Numba"),
        (lambda x: torch.stack([x, x], -1)[..., 0], "for"),
    ):
        start, grad = torch.randn(6, 4, 3, 5), torch.randn(6, 4, 3, 5)
        ways = []
        for changed in (change, torch.clone):
            p = torch.nn.Parameter(start)
            p.data = changed(start.clone())
            optimizer = gct.Adam([p], lr=0.1)
            for one in (grad, grad * 2, grad.clone().to(memory_format=torch.channels_last)):
                p.grad = changed(one.clone())
                optimizer.step()
            assert changed is torch.clone or (taken == "Numba") == ("implementation: Numba" in repr(optimizer))
            ways.append(p.detach().contiguous())
        # Sums of 60 numbers in another order; nothing else differs, and no ĝ here is near 0 against them.
        torch.testing.assert_close(ways[0], ways[1], rtol=0, atol=2e-5)


def test_parameters_that_share_memory_are_updated_one_after_another():
    flat = torch.zeros(40000)
    first, second = torch.nn.Parameter(flat[:30000]), torch.nn.Parameter(flat[10000:])
    first.data, second.data = flat[:30000], flat[10000:]
    first.grad, second.grad = torch.ones(30000), torch.ones(30000)
    torch.set_num_threads(3)
    try:
        gct.SGD([first, second], lr=1.0).step()
    finally:
        torch.set_num_threads(1)
    expected = torch.full((40000,), -1.0)
    expected[10000:30000] = -2.0
    assert torch.equal(flat, expected)


def test_a_state_or_a_gradient_that_is_replaced_between_steps_is_seen():
    params, plan = parameters(torch.float32)
    optimizer = made("Adam", params, plan)
    for step in range(3):
        gradients(params, step)
        optimizer.step()
    one = params[0]
    optimizer.state[one]["exp_avg"] = torch.zeros(3, 5)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="exp_avg has shape"):
        optimizer.step()
    assert all(map(torch.equal, before, params))
    optimizer.state[one]["exp_avg"] = torch.zeros(5, 3)
    one.grad = None
    optimizer.step()
    assert torch.equal(one, before[0]) and not torch.equal(params[1], before[1])


def test_no_gradient_is_kept_alive():
    import weakref

    params, plan = parameters(torch.float32)
    optimizer = made("Adam", params, plan)
    for step in range(3):
        gradients(params, step)
        optimizer.step()
    held = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    assert not any(one() is not None for one in held)


def test_two_threads_step_at_once():
    def train(result):
        params, plan = parameters(torch.float32)
        optimizer = gct.Adam(params, plan=plan)
        for step in range(30):
            gradients(params, step)
            optimizer.step()
        result.append([p.detach().numpy().tobytes() for p in params])

    torch.set_num_threads(2)
    try:
        alone, together = [], []
        train(alone)
        threads = [threading.Thread(target=train, args=(together,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(1)
    assert together == [alone[0], alone[0]]


def run(code):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


STEP = """
import os
import torch
import gc_torch
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.zeros(400, 500))
p.grad = torch.arange(500.0).repeat(400, 1)
optimizer = gc_torch.SGD([p], lr=1.0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_steps_after_its_parent_has():
    code = """
optimizer.step()
child = os.fork()
if not child:
    optimizer.step()
    os._exit(0 if torch.equal(p[:, 0], torch.full((400,), 499.0)) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(STEP + code) == ["0"]


def test_without_numba_it_works_and_says_what_would_be_faster():
    code = """
optimizer.step()
assert "gc_torch.kernels_cpu" not in sys.modules
assert torch.equal(p[:, 0], torch.full((400,), 249.5))
print("fused (without numba, which is not installed: pip install numba makes it faster)" in repr(optimizer))
"""
    assert run("import sys\nsys.modules['numba'] = sys.modules['llvmlite'] = None\n" + STEP + code) == ["True"]


def test_numba_is_not_imported_before_it_is_needed():
    assert run("import sys, gc_torch\nprint('numba' in sys.modules)") == ["False"]


def test_where_a_kernel_steps_in():
    assert path.KERNELS["cpu"] == kernels_cpu.__name__
    p = [torch.nn.Parameter(torch.ones(2, 3))]
    for options, taken in (({}, "Numba"), ({"fused": True}, "Numba"), ({"foreach": True}, "foreach"),
                           ({"foreach": False}, "for-loop"), ({"gc_on": None}, "foreach")):  # fmt: skip
        assert f"implementation: {taken}\n" in repr(gct.Adam(p, **options)) or taken == "foreach"
