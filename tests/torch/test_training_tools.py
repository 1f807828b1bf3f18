"""What PyTorch's users put around an optimizer works as around torch.optim: with GC off to the last bit."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import gc_torch as gct

from . import restatement
from .cases import KINDS, MEMORY, PATHS, Tensors, arrays, as_it_is, bits, everything, grads, same_state

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")

STATE = {"SGD": {"momentum": 0.9, "weight_decay": 0.1}, "Adam": {"weight_decay": 0.1}, "AdamW": {"amsgrad": True}}


def make(kind, memory=as_it_is, **options):
    model = Tensors(memory=memory)
    return model, getattr(gct, kind)(model, **{"lr": 0.1, **STATE[kind], **options}, plan=model.plan)


def restated(kind, model, **options):
    start = arrays(model.named_parameters())
    return restatement.Run(kind, start, model.views, **{"lr": 0.1, **STATE[kind], **options})


def assert_at(model, run, atol=1e-12):
    for name, p in model.named_parameters():
        assert abs(run.seen(name, p) - run.params[name]).max(initial=0) < atol, name


# ---- p.grad


@pytest.mark.parametrize("gc_on", ["gradient", "update", None])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_leaves_the_gradients_alone(kind, path, gc_on):
    options = [{"maximize": maximize} for maximize in (False, True)]
    if kind == "SGD":
        options += [{"nesterov": True, "weight_decay": decay} for decay in (0.0, 0.1)]
    for memory, option in itertools.product(MEMORY[:4], options):
        model, optimizer = make(kind, memory[0], gc_on=gc_on, **PATHS[path], **option)
        for step in range(2):
            model.set_grads(step, memory[1])
            before = [(id(p.grad), p.grad.data_ptr(), p.grad.stride(), bits(p.grad)) for p in model.parameters()]
            optimizer.step()
            assert before == [
                (id(p.grad), p.grad.data_ptr(), p.grad.stride(), bits(p.grad)) for p in model.parameters()
            ]
            assert not any(
                x.data_ptr() == p.grad.data_ptr()
                for p in model.parameters()
                if p.numel()
                for x in optimizer.state[p].values()
            ), "a state that shares memory with the gradient"


def test_torch_s_foreach_nesterov_changes_the_gradient():
    """The reason for a copy of ours, which could go."""
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True, foreach=True).step()
    assert not torch.equal(p.grad, torch.ones(3))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_missing_or_zero(kind, set_to_none):
    model, optimizer = make(kind)
    reference = restated(kind, model)
    model.set_grads(0)
    reference.step(grads(model))
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    before = everything(optimizer)
    if set_to_none:
        optimizer.step()
        assert everything(optimizer) == before  # no gradient, no step
    else:
        reference.step(grads(model))
        optimizer.step()
    assert_at(model, reference)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_first_gradients_that_come_later(kind, path, gc_on):
    """Of one parameter after another, each with a first step of its own."""
    model, optimizer = make(kind, gc_on=gc_on, **PATHS[path])
    reference = restated(kind, model, gc_on=gc_on)
    names = list(model.views)
    for step in range(len(names)):
        model.set_grads(step)
        for name in names[step + 1 :]:
            model.get_parameter(name).grad = None
        if step % 3 == 2:
            model.get_parameter(names[0]).grad = None  # and one that pauses
        reference.step(grads(model))
        optimizer.step()
    assert_at(model, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_that_is_added_later(kind):
    model, optimizer = make(kind)
    part = nn.Linear(4, 3, bias=False).double()
    first, run = restated(kind, model), None
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": part.parameters(), "lr": 0.05, "gc_on": "update"})
            run = restatement.Run(
                kind,
                {"w": part.weight.detach().numpy().copy()},
                {"w": ((3, 4), (1,))},
                **{**STATE[kind], "lr": 0.05, "gc_on": "update"},
            )
        model.set_grads(step)
        part.weight.grad = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        first.step(grads(model))
        if run:
            run.step({"w": part.weight.grad.numpy()})
        optimizer.step()
    assert_at(model, first)
    assert abs(run.seen("w", part.weight) - run.params["w"]).max() < 1e-12


# ---- Clipping, accumulation, closures, hooks, schedulers


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_sees_the_gradient_before_gc(kind):
    model, optimizer = make(kind)
    reference = restated(kind, model)
    for step in range(3):
        model.set_grads(step)
        whole = {name: x.copy() for name, x in grads(model).items()}
        norm = sum((x**2).sum() for x in whole.values()) ** 0.5
        assert abs(nn.utils.clip_grad_norm_(model.parameters(), 0.5) - norm) < 1e-12 * norm
        reference.step({name: x * (0.5 / (norm + 1e-6)) for name, x in whole.items()})
        optimizer.step()
    assert_at(model, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_is_called_once_and_its_loss_comes_back(kind):
    model, optimizer = make(kind)
    calls = []
    reference = restated(kind, model)

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        loss = sum((p**3).sum() for p in model.parameters())
        loss.backward()
        return loss

    for step in range(3):
        expected = sum((p.detach() ** 3).sum() for p in model.parameters())
        reference.step({name: 3 * p.detach().numpy() ** 2 for name, p in model.named_parameters()})
        with torch.no_grad():
            assert torch.equal(optimizer.step(closure).detach(), expected)
        assert len(calls) == step + 1
    assert_at(model, reference)
    assert optimizer.step() is None


@pytest.mark.parametrize("first", ["ours", "theirs", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_step_hooks_fire_once(kind, first):
    """Also when an instance of the torch class, or of a subclass of ours, has been made."""
    ours, theirs = getattr(gct, kind), getattr(torch.optim, kind)
    if first == "theirs":
        theirs([torch.ones(1)])
    if first == "ours":
        ours([torch.ones(1)])
    sub = type("Sub", (ours,), {})
    for cls in (ours, sub):
        model = Tensors()
        optimizer = cls(model, plan=model.plan)
        model.set_grads(0)
        seen = []
        before = bits(model.linear)
        optimizer.register_step_pre_hook(lambda *_, seen=seen, m=model: seen.append(("pre", bits(m.linear))))
        optimizer.register_step_post_hook(lambda *_, seen=seen, m=model: seen.append(("post", bits(m.linear))))
        optimizer.step()
        assert seen == [("pre", before), ("post", bits(model.linear))] and before != bits(model.linear)


def test_hooks_of_a_state_dict():
    _, optimizer = make("Adam")
    seen = []
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["saved", "loading", "loaded"]


SCHEDULERS = [
    lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=7),  # turns the momentum or betas too
    lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
]


@pytest.mark.parametrize("schedule", range(len(SCHEDULERS)))
@pytest.mark.parametrize("lr", ["number", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
def test_schedulers(kind, schedule, lr):
    """With GC off to the last bit as torch.optim; with GC as the restatement, given the options of each step."""
    results = []
    for module, extra in ((torch.optim, {}), (gct, {"gc_on": None})):
        model = Tensors()
        rate = 0.1 if lr == "number" else torch.tensor(0.1, dtype=torch.float64)
        optimizer = getattr(module, kind)(model.parameters(), lr=rate, **STATE[kind], **extra)
        scheduler = SCHEDULERS[schedule](optimizer)
        for step in range(6):
            model.set_grads(step)
            optimizer.step()
            scheduler.step()
        results.append([bits(p) for p in model.parameters()])
    assert results[0] == results[1]

    model = Tensors()
    rate = 0.1 if lr == "number" else torch.tensor(0.1, dtype=torch.float64)
    optimizer = getattr(gct, kind)(model, lr=rate, plan=model.plan, **STATE[kind])
    scheduler = SCHEDULERS[schedule](optimizer)
    reference = restated(kind, model)
    for step in range(6):
        model.set_grads(step)
        group = optimizer.param_groups[0]
        reference.options |= {key: group[key] for key in ("momentum", "betas") if key in group} | {
            "lr": float(group["lr"])
        }
        reference.step(grads(model))
        optimizer.step()
        scheduler.step()
    assert_at(model, reference)


# ---- GradScaler


def scaled_run(cls, options, *, infs=(), dtype=torch.float32, steps=5, scale=2.0**10, clip=False):
    """A model after steps with a scaler, of which some see an infinity: (model, optimizer, scaler, unscaled grads)."""
    model = Tensors(dtype)
    optimizer = cls(model, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    left = []
    for step in range(steps):
        factor = scaler.get_scale()
        model.set_grads(step)
        scaler.scale(torch.ones(()))  # as a loss would be
        for i, p in enumerate(model.parameters()):
            p.grad.mul_(factor)
            if step in infs and i == 3:
                p.grad[0, 0] = torch.inf
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        left.append([bits(p.grad) for p in model.parameters()])
        scaler.update()
    return model, optimizer, scaler, left


@pytest.mark.parametrize("infs", [(), (0,), (2,), (0, 1, 3)])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_grad_scaler_without_gc(kind, path, infs):
    """Parameters, states, scale and what p.grad is left as: torch's, to the last bit."""
    options = {"lr": 0.1, **STATE[kind], **PATHS[path]}
    for clip in (False, True):
        a, first, one, grads_a = scaled_run(
            lambda m, **o: getattr(gct, kind)(m, **o, gc_on=None), options, infs=infs, clip=clip
        )
        theirs = dict(options)
        if kind == "SGD" and path == "fused" and 0 in infs:
            # There PyTorch's fused SGD leaves the momentum buffer uninitialized: what is right is as if that step had
            # not been taken, which is what the scaler does for the for-loop.
            theirs = {**options, "fused": False}
        b, second, two, grads_b = scaled_run(
            lambda m, **o: getattr(torch.optim, kind)(m.parameters(), **o), theirs, infs=infs, clip=clip
        )
        assert one.get_scale() == two.get_scale()
        if theirs == options:
            assert [bits(p) for p in a.parameters()] == [bits(p) for p in b.parameters()]
            assert grads_a == grads_b
            assert same_state(first, second)
        else:
            for p, q in zip(a.parameters(), b.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("infs", [(), (0,), (2,), (0, 1, 3)])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_grad_scaler_with_gc(kind, path, infs, gc_on):
    """A step that saw an infinity is none; the others are those of the rule, whatever the scale. In float64: a scale is
    a power of two, so that unscaling is exact."""
    options = {"lr": 0.1, **STATE[kind], **PATHS[path]}

    def ours(model, **options):
        return getattr(gct, kind)(model, plan=model.plan, gc_on=gc_on, **options)

    model, optimizer, _, left = scaled_run(ours, options, infs=infs, dtype=torch.float64)
    other = Tensors()
    reference = restated(kind, other, gc_on=gc_on)
    for step in range(5):
        other.set_grads(step)
        if step not in infs:
            reference.step(grads(other))
    assert_at(model, reference)
    # p.grad is left unscaled where PyTorch's step leaves it so, and never centralized.
    *_, theirs = scaled_run(
        lambda m, **o: getattr(torch.optim, kind)(m.parameters(), **o), options, infs=infs, dtype=torch.float64
    )
    assert left == theirs
    for p in model.parameters():
        if "step" in optimizer.state[p]:
            assert int(optimizer.state[p]["step"]) == 5 - len(infs)


def test_a_scale_that_is_not_heeded_is_noticed():
    """The scaler's test sees a scale, and an infinity that is stepped on."""
    for broken in ("grad_scale", "found_inf"):

        class Deaf(gct.SGD):
            def _take(self, batch, grad_scale, found_inf, broken=broken):
                kept = {"grad_scale": grad_scale, "found_inf": found_inf} | {broken: None}
                super()._take(batch, kept["grad_scale"], kept["found_inf"])

        runs = [
            scaled_run(lambda m, cls=cls, **o: cls(m, **o, gc_on=None), {"fused": True}, infs=(2,))[0]
            for cls in (gct.SGD, Deaf)
        ]
        assert [bits(p) for p in runs[0].parameters()] != [bits(p) for p in runs[1].parameters()]


@pytest.mark.parametrize("gc_on", ["gradient", "update", None])
@pytest.mark.parametrize("path", PATHS)
def test_momentum_that_is_switched_on_and_off(path, gc_on):
    """Without momentum PyTorch keeps no buffer, and leaves an old one as it was."""
    moments = [0.0, 0.9, 0.0, 0.5]
    model, optimizer = make("SGD", gc_on=gc_on, **PATHS[path])
    reference = restated("SGD", model, gc_on=gc_on)
    for step, momentum in enumerate(moments):
        optimizer.param_groups[0]["momentum"] = reference.options["momentum"] = momentum
        kept = dict(reference.state)
        model.set_grads(step)
        reference.step(grads(model))
        if not momentum:
            reference.state = kept
        optimizer.step()
        assert_at(model, reference)
        for name, p in model.named_parameters():
            buffer = optimizer.state[p].get("momentum_buffer")
            assert (buffer is None) == (kept[name] is None and not momentum)
            if buffer is not None:
                assert abs(reference.seen(name, buffer) - reference.state[name]).max(initial=0) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_for_each_parameter_in_the_backward_pass(kind):
    model = Tensors()
    plan = model.plan
    reference = restated(kind, model)
    optimizers = {p: getattr(gct, kind)([p], lr=0.1, plan=plan, **STATE[kind]) for p in model.parameters() if p.numel()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in optimizers:
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        # One gradient after another: each is that of the loss at the weights before the pass.
        reference.step({n: 3 * p.detach().numpy() ** 2 for n, p in model.named_parameters() if p.numel()})
        sum((p**3).sum() for p in optimizers).backward()
    assert_at(model, reference)
    assert all(p.grad is None for p in optimizers)


def test_hooks_of_every_optimizer_fire_once():
    model, optimizer = make("SGD")
    model.set_grads(0)
    seen = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("pre")),
        register_optimizer_step_post_hook(lambda *_: seen.append("post")),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    assert seen == ["pre", "post"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_step_with_a_scaler_in_half_precision(kind, dtype):
    """The scale is a power of two: the step is that without one, and an infinity makes none."""
    results = []
    for scale, infs in ((1.0, ()), (2.0**4, ()), (2.0**4, (1,))):
        model, *_ = scaled_run(
            lambda m, **o: getattr(gct, kind)(m, plan=m.plan, **o),
            {"lr": 0.1, "fused": True, **STATE[kind]},
            dtype=dtype, scale=scale, infs=infs, steps=2,
        )  # fmt: skip
        results.append([bits(p) for p in model.parameters()])
    once, *_ = scaled_run(
        lambda m, **o: getattr(gct, kind)(m, plan=m.plan, **o),
        {"lr": 0.1, "fused": True, **STATE[kind]},
        dtype=dtype, scale=1.0, steps=1,
    )  # fmt: skip
    assert results[0] == results[1]
    assert results[2] == [bits(p) for p in once.parameters()] != results[0]


# ---- Autograd and the compiler


@pytest.mark.parametrize("gc_on", ["gradient", "update", None])
@pytest.mark.parametrize("kind", KINDS)
def test_differentiable(kind, gc_on):
    """Gradients flow through a step to weights, gradients and states: against finite differences."""
    options = {
        "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        "Adam": {"weight_decay": 0.1},
        "AdamW": {},
    }
    names = {"SGD": ["momentum_buffer"]}.get(kind, ["exp_avg", "exp_avg_sq"])
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(3, 4, dtype=torch.float64, generator=generator) + 0.1 for _ in range(2 + len(names))]

    def step(w, grad, *states):
        p = w.clone()
        p.grad = grad
        optimizer = getattr(gct, kind)([p], lr=0.1, differentiable=True, gc_on=gc_on, **options[kind])
        state = dict(zip(names, (x.clone() for x in states), strict=True))
        if kind != "SGD":
            state["step"] = torch.tensor(3.0, dtype=torch.float64)
        optimizer.state[p] = state
        optimizer.step()
        return p, *(optimizer.state[p][name] for name in names)

    assert torch.autograd.gradcheck(step, [x.requires_grad_() for x in values])


SOME = ("bias", "linear", "grouped")


def compiled_steps(module, kind, backend, **options):
    """The parameters after three steps, which a compiler has seen through."""
    torch._dynamo.reset()
    model = Tensors(names=SOME)
    extra = {"plan": model.plan} if module is gct else {}
    optimizer = getattr(module, kind)(model.parameters(), lr=0.1, **STATE[kind], **options, **extra)
    step = torch.compile(optimizer.step, backend=backend)
    given = []
    for i in range(3):
        model.set_grads(i)
        given.append(grads(model))
        step()
    return model, given


# PyTorch's own: its compiler still uses what it deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "path", "gc_on"),
    [
        ("SGD", "unset", "gradient"),
        ("SGD", "for-loop", "update"),
        ("AdamW", "unset", "update"),
        ("AdamW", "for-loop", "gradient"),
        ("AdamW", "foreach", "update"),
        ("AdamW", "fused", "gradient"),
    ],
)
def test_the_step_may_be_compiled(kind, path, gc_on):
    reference = restated(kind, Tensors(names=SOME), gc_on=gc_on)
    model, given = compiled_steps(gct, kind, "eager", gc_on=gc_on, **PATHS[path])
    for one in given:
        reference.step(one)
    assert_at(model, reference)


def _put_another(optimizer, model, other):
    optimizer.param_groups[0]["params"][1] = other


def _append(optimizer, model, other):
    optimizer.param_groups[0]["params"].append(other)


def _add_a_group(optimizer, model, other):
    optimizer.add_param_group({"params": [other]})


def _remove(optimizer, model, other):
    optimizer.param_groups[0]["params"].pop(0)


def _reverse(optimizer, model, other):
    optimizer.param_groups[0]["params"].reverse()


def _switch_off(optimizer, model, other):
    optimizer.param_groups[0]["gc_on"] = None


def _put_another_plan(optimizer, model, other):
    optimizer.plan = gct.plan(model, overrides={"0.weight": (0,)})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("path", ["unset", "for-loop", "fused"])
@pytest.mark.parametrize(
    "change", [_put_another, _append, _add_a_group, _remove, _reverse, _switch_off, _put_another_plan]
)
def test_a_compiled_step_sees_what_changes_as_one_that_is_not(change, path):
    torch._dynamo.reset()
    models, drift = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Embedding(3, 4), nn.Embedding(3, 4)).double()
        models.append(model)
        optimizer = gct.AdamW(model[:2].parameters(), lr=0.1, **PATHS[path])
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for i in range(4):
            if i == 2:
                change(optimizer, model, model[2].weight)
            torch.manual_seed(i)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            step()
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        drift.append((mine - theirs).abs().max().item())
    # Compiled, PyTorch's Adam has bias corrections in float32; a wrong row is a step of a tenth away.
    assert max(drift) < 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_without_gc_a_compiled_step_is_torch_s(kind):
    """Compiled, PyTorch's Adam has bias corrections in float32; so has ours."""
    ours, _ = compiled_steps(gct, kind, "eager", gc_on=None)
    theirs, _ = compiled_steps(torch.optim, kind, "eager")
    assert [bits(p) for p in ours.parameters()] == [bits(p) for p in theirs.parameters()]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_the_step_may_be_traced_and_made_functional():
    reference = restated("AdamW", Tensors(names=SOME))
    model, given = compiled_steps(gct, "AdamW", "aot_eager", gc_on="gradient")
    for one in given:
        reference.step(one)
    assert_at(model, reference)


def test_repr_names_the_path():
    model, _ = make("AdamW")
    params = list(model.parameters())
    for path, options in PATHS.items():
        text = repr(gct.AdamW(model, plan=model.plan, **options))
        assert f"implementation: {'Numba' if path in ('unset', 'fused') else path}" in text
    text = repr(gct.SGD([{"params": params[:4]}, {"params": params[4:], "gc_on": None}], plan=model.plan, foreach=True))
    assert "Group 0: GC on the gradient of 2 of 4 parameters; implementation: foreach" in text
    assert "Group 1: no GC on 10 parameters; implementation: foreach" in text
    half = [torch.ones(2, 2, dtype=torch.bfloat16)]
    assert "implementation: for-loop" in repr(
        gct.SGD(half, fused=True, gc_on=None)
    )  # where PyTorch's fused one is wrong
    assert copy.deepcopy(gct.SGD(half)).plan is not None
