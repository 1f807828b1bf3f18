"""attach: GC in front of any optimizer. What it reads is Φ(g), and nothing else is different."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gc_torch as gct
from gc_torch import attach_step, in_place


class Lion(torch.optim.Optimizer):
    """The rule that many write themselves: the sign of an average of gradients."""

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                a, b = group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * (a * m + (1 - a) * p.grad).sign())
                m.mul_(b).add_(p.grad, alpha=1 - b)
        return loss


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 5), nn.LayerNorm(5)).double()


X = torch.randn(7, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(7) % 5


def loss_of(model, x=X, y=Y):
    return F.cross_entropy(model(x), y)


def backward(model):
    model.zero_grad()
    loss = loss_of(model)
    loss.backward()
    return loss


def phi_by_hand(model):
    """Centralize by hand what this model has: all but the first axis, each sum exact."""
    for module in model:
        if isinstance(module, (nn.Conv1d, nn.Linear)) and module.weight.grad is not None:
            for row in module.weight.grad.flatten(1):
                row -= math.fsum(row.tolist()) / len(row)


def matrices(model):
    return [model[3].weight]


OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    "AdamW, fused": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.01),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.01),
    "Adadelta": torch.optim.Adadelta,
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.01),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=0.01),
    "Rprop": lambda params: torch.optim.Rprop(params, lr=0.01),
    "Lion": Lion,
}


@pytest.mark.parametrize("where", ["step", "backward"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimizer_reads_the_centralized_gradient(kind, where):
    model, other = network(), network()
    optimizer, plain = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](other.parameters())
    gct.attach(optimizer, model, where=where)
    for _ in range(4):
        backward(model)
        optimizer.step()
        backward(other)
        phi_by_hand(other)
        plain.step()
        # The gradients of both differ by the rounding of one mean; steps are at most 0.1, and here of no rule with a
        # sign that such a difference could turn.
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-9, atol=1e-11)
            assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-12)
    assert not torch.equal(model[3].weight, network()[3].weight)


def test_muon_keeps_the_means():
    """Its orthogonalization multiplies the matrix from the left by polynomials of G Gᵀ: sums of rows stay zero."""
    torch.manual_seed(0)
    model = nn.Linear(16, 8, bias=False)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.05, weight_decay=0.0)
    gct.attach(optimizer, model)
    before, start = model.weight.detach().double().mean(1), model.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        (model(torch.randn(9, 16)) - 1).square().mean().backward()
        optimizer.step()
    moved = (model.weight - start).abs().mean().item()
    drift = (model.weight.detach().double().mean(1) - before).abs().max().item()
    assert moved > 0.01
    # Computed in bfloat16: each update has entries of at most about 1, rounded to 2⁻⁹, in five iterations of products.
    assert drift < 5 * 0.05 * 2**-9 * 5 and drift < moved / 20


def test_a_closure_computes_gradients_inside_the_step():
    """LBFGS: gradients from before the step are not what it uses. With GC it solves the problem in the subspace."""
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    attached = gct.attach(optimizer, model)
    sums, calls = [w.detach().sum(tuple(range(1, w.ndim))) for w in (model[0].weight, model[3].weight)], []

    def closure():
        calls.append(1)
        return backward(model)

    first = optimizer.step(closure)
    assert loss_of(model) < 0.5 * first and len(calls) > 3
    for w, before in zip((model[0].weight, model[3].weight), sums, strict=True):
        # Each of some 20 steps adds a vector of zero sum: what is left is rounding of numbers of size 1.
        assert torch.allclose(w.detach().sum(tuple(range(1, w.ndim))), before, rtol=0, atol=20 * 16 * 2**-50)
    # Without GC the sums move.
    attached.remove()
    optimizer.step(closure)
    assert (model[3].weight.detach().sum(1) - sums[1]).abs().max() > 1e-3


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_of_any_optimizer(by_name):
    model, other = network(), network()
    optimizer, plain = Lion(model.parameters()), Lion(other.parameters())
    gct.attach(optimizer, model)
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)  # stale: whoever uses these is found out
    loss = optimizer.step(closure=lambda: backward(model)) if by_name else optimizer.step(lambda: backward(model))
    assert loss.item() == loss_of(network()).item()
    backward(other)
    phi_by_hand(other)
    plain.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-12)


def test_decay_is_not_centralized():
    """The mean shrinks by 1 − ηλ a step with SGD, whichever kind of decay; without decay it stays."""
    for decay in (0.0, 0.5):
        model = network()
        gct.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay), model)
        mean = model[3].weight.detach().mean(1)
        for _ in range(3):
            backward(model)
            optimizer.step()
        assert torch.allclose(model[3].weight.detach().mean(1), mean * (1 - 0.1 * decay) ** 3, rtol=1e-12, atol=1e-15)


# ---- What it leaves alone


@pytest.mark.parametrize("where", ["step", "backward"])
def test_remove_undoes_it(where):
    model, other = network(), network()
    optimizer, plain = torch.optim.Adam(model.parameters()), torch.optim.Adam(other.parameters())
    hooks = [len(optimizer._optimizer_step_pre_hooks), len(model[0]._forward_pre_hooks)]
    attached = gct.attach(optimizer, model, where=where)
    attached.remove()
    assert hooks == [len(optimizer._optimizer_step_pre_hooks), len(model[0]._forward_pre_hooks)]
    assert not model[0].weight._backward_hooks
    for _ in range(2):
        backward(model), optimizer.step()
        backward(other), plain.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    attached.remove()  # once more is nothing
    assert repr(attached).startswith("removed: GC ")
    gct.attach(optimizer, model, where=where)  # and it can be attached again


def test_what_the_plan_leaves_alone_is_left_alone():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gct.attach(optimizer, model, {"3.weight": None, "0.weight": 0})
    backward(model)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    for (name, p), grad in zip(model.named_parameters(), before, strict=True):
        if name == "0.weight":
            assert torch.allclose(p.grad, grad - grad.mean(0), rtol=0, atol=1e-15)
            assert not torch.allclose(p.grad, grad)
        else:
            assert torch.equal(p.grad, grad)


def test_gradients_are_changed_in_place():
    """Views of communication buckets, for one, must stay the views they are."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gct.attach(optimizer, model)
    backward(model)
    grads = [p.grad for p in model.parameters()]
    optimizer.step()
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))


def test_a_view_is_centralized_as_one():
    layer = nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    gct.attach(optimizer, layer)
    grad = torch.randn(4, 3, 2)
    layer.weight.grad = grad.clone()
    optimizer.step()
    for group, out in itertools.product(range(2), range(3)):
        own = grad[2 * group : 2 * group + 2, out].double()
        wanted = own - math.fsum(own.flatten().tolist()) / own.numel()
        assert torch.allclose(layer.weight.grad[2 * group : 2 * group + 2, out].double(), wanted, atol=1e-6)


@pytest.mark.parametrize("where", ["step", "backward"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype, where):
    layer = nn.Linear(300, 2, bias=False).to(dtype)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    gct.attach(optimizer, layer, where=where)
    x = (1 + torch.rand(300) / 8).to(dtype)
    layer(x).sum().backward()  # the gradient of each row is x: a large mean, and a small spread
    optimizer.step()
    exact = x.double() - math.fsum(x.tolist()) / 300
    # One rounding to dtype, of what float32 got right to 300 roundings of numbers of at most 1.125.
    unit = torch.finfo(dtype).eps / 2
    for row in layer.weight.grad.double():
        assert ((row - exact).abs() <= unit * exact.abs() + 300 * 2**-24 * 1.2).all()
    rounded_mean = x - x.mean()
    assert ((rounded_mean.double() - exact).abs() > unit * exact.abs() + 300 * 2**-24 * 1.2).any()


def test_accumulation_commutes():
    model, other = network(), network()
    gct.attach(None, model, where="backward")
    gct.attach(optimizer := torch.optim.SGD(other.parameters(), lr=0.0), other)
    for x, y in zip(X.split(3), Y.split(3), strict=True):
        loss_of(model, x, y).backward()
        loss_of(other, x, y).backward()
    optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-14)


def test_stepping_twice_on_one_gradient_changes_nothing_more():
    model = network()
    gct.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.0), model)
    backward(model)
    optimizer.step()
    once = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.allclose(p.grad, g, rtol=0, atol=1e-16) for p, g in zip(model.parameters(), once, strict=True))


# ---- Many gradients at once


def expanded(p):
    return torch.randn(p.shape[0], 1, dtype=p.dtype).expand(p.shape[0], p[0].numel()).reshape_as(p).expand_as(p)


def repeated(p):
    return torch.randn((1,) * p.ndim, dtype=p.dtype).expand_as(p)


def in_other_order(p):
    return torch.randn(p.shape[::-1], dtype=p.dtype).permute(*reversed(range(p.ndim)))


def of_inference(p):
    with torch.inference_mode():
        return torch.randn_like(p)


GRADIENTS = [lambda p: None, torch.randn_like, expanded, repeated, in_other_order, of_inference]


def many_layers():
    """Small ones that go together, in three dtypes, one stored (in, out), one seen as a view, one cut in parts."""
    layers = [nn.Linear(12, 3), nn.Linear(12, 5), nn.Linear(12, 4).bfloat16(), nn.Linear(12, 2).bfloat16()]
    layers += [nn.Linear(12, 2).double(), nn.Conv1d(4, 5, 3), nn.ConvTranspose1d(4, 3, 2), nn.ConvTranspose1d(4, 5, 2)]
    return nn.Sequential(*layers, nn.ConvTranspose1d(4, 6, 2, groups=2), nn.Linear(1000, 1100))


@given(st.lists(st.lists(st.sampled_from(GRADIENTS), min_size=9, max_size=9), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_gradients_of_any_layout_from_step_to_step(steps):
    """What was prepared for one step does not serve another in which any gradient is of another form."""
    model = many_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attached = gct.attach(optimizer, model)
    assert len(in_place._parts(model[-1].weight, attached.plan.rows[-2])) > 1
    for forms in [steps[0], *steps]:  # the first one twice
        before = []
        for layer, form in zip(model, [*forms, torch.randn_like], strict=True):
            grad = layer.weight.grad = form(layer.weight.detach())
            before.append(None if grad is None else grad.double())
        optimizer.step()
        for layer, grad, row in zip(model, before, attached.plan.rows[::2], strict=True):
            if grad is None:
                assert layer.weight.grad is None
                continue
            g = grad.reshape(row.view)
            wanted = (g - g.sum(row.axes, keepdim=True) / row.fan_in).reshape(row.shape)
            unit = torch.finfo(layer.weight.dtype).eps / 2
            # Of at most 6 in size: one rounding of the result, and of a sum in float32 or better.
            bound = unit * wanted.abs() + 6 * row.fan_in * min(unit, 2**-24)
            assert ((layer.weight.grad.double() - wanted).abs() <= bound).all()


def test_what_is_kept_is_used(monkeypatch):
    """Else thousands of small gradients would be looked at anew in every step."""
    model = many_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gct.attach(optimizer, model)
    prepared = []
    real = in_place.Prepared
    monkeypatch.setattr(attach_step, "Prepared", lambda *args: prepared.append(1) or real(*args))
    for _ in range(3):
        for layer in model:
            layer.weight.grad = torch.randn_like(layer.weight)
        optimizer.step()
    assert len(prepared) == 1
    grads = [layer.weight.grad for layer in model]
    together = real(grads, gct.plan(model).rows[::2])._together
    assert sorted(one.places for one in together) == [[0, 1], [2, 3], [6, 7]]


def test_a_gradient_that_autograd_has_recorded():
    layer = nn.Linear(600, 500, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    gct.attach(optimizer, layer)
    loss = layer(torch.randn(3, 600)).pow(3).sum()
    (layer.weight.grad,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
    assert layer.weight.grad.requires_grad
    before = layer.weight.grad.detach().clone()
    optimizer.step()
    wanted = before - before.mean(1, keepdim=True)
    assert torch.allclose(layer.weight.grad, wanted, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


# ---- Beside the other tools of a training loop


def test_clipping_in_both_orders():
    model, other = network(), network()
    gct.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, where="backward")
    gct.attach(optimizer := torch.optim.SGD(other.parameters(), lr=0.1), other)
    backward(model)
    centralized = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)  # after GC
    backward(other)
    plain = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01)  # before GC
    optimizer.step()
    assert centralized < plain
    # The direction is the same; only the factor differs (PyTorch adds 1e-6 to the norm).
    factor = (centralized + 1e-6) / (plain + 1e-6)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad * factor, q.grad, rtol=1e-9, atol=1e-15)
    # Clipping by value is not linear: after it, sums are zero only if GC comes last.
    for network_, last in ((model, False), (other, True)):
        backward(network_)
        torch.nn.utils.clip_grad_value_(network_.parameters(), 0.005)
        if last:
            optimizer.step()
        sums = network_[3].weight.grad.sum(1).abs().max()
        assert (sums < 1e-15) == last


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(fused):
    model, other = network().float(), network().float()
    options = dict(lr=0.01, fused=fused)
    optimizer, plain = (
        torch.optim.AdamW(model.parameters(), **options),
        torch.optim.AdamW(other.parameters(), **options),
    )
    gct.attach(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(4):
        x = X.float() * (math.inf if step == 1 else 1)
        model.zero_grad(), other.zero_grad()
        scaler.scale(loss_of(model, x)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        scaler.step(optimizer)
        scaler.update()
        if step == 1:  # skipped
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
            continue
        loss_of(other, x).backward()
        phi_by_hand(other)
        plain.step()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            # Scaling by powers of two is exact. Left is the rounding of a mean of 16 gradients of at most 1, 0.1 of it
            # in each of three steps.
            assert torch.allclose(p, q, rtol=0, atol=3 * 0.1 * 16 * 2**-24 * 4)
    assert scaler.get_scale() == 1024.0


def test_a_state_dict_is_the_optimizers_own_and_copies_have_no_gc():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    attached = gct.attach(optimizer, model)
    backward(model), optimizer.step()
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    fresh = torch.optim.Adam(network().parameters())
    fresh.load_state_dict(torch.load(_saved(state), weights_only=True))
    optimizer.load_state_dict(state)  # loading leaves it attached
    backward(model), optimizer.step()
    assert model[3].weight.grad.sum(1).abs().max() < 1e-14 and "2 of its 6" in repr(attached)

    for copied_model, copied in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        backward(copied_model), copied.step()
        assert copied_model[3].weight.grad.sum(1).abs().max() > 1e-4
        gct.attach(copied, copied_model)
        backward(copied_model), copied.step()
        assert copied_model[3].weight.grad.sum(1).abs().max() < 1e-14


def _saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("where", ["step", "backward"])
def test_a_compiled_model(where):
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    gct.attach(optimizer, compiled, where=where)
    loss_of(compiled).backward()
    optimizer.step()
    other = network()
    backward(other)
    phi_by_hand(other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-13)


def test_an_lr_scheduler_and_hooks_of_the_users_own():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(model[3].weight.grad.sum(1).abs().max().item()))
    gct.attach(optimizer, model)
    optimizer.register_step_pre_hook(lambda *_: seen.append(model[3].weight.grad.sum(1).abs().max().item()))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    backward(model), optimizer.step(), scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert seen[0] > 1e-4 and seen[1] < 1e-15  # hooks run in the order they were registered in


def test_groups_added_later():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    attached = gct.attach(optimizer, model)
    assert repr(attached) == "GC in front of SGD: 1 of its 2 parameters, in step()"
    head = nn.Linear(3, 3)
    optimizer.add_param_group({"params": model[3].parameters()})
    optimizer.add_param_group({"params": head.parameters()})  # not the model's: the plan does not know it
    backward(model)
    head.weight.grad = torch.ones(3, 3)
    with pytest.warns(gct.GCWarning, match=r"leaves group2.0 \(3, 3\), group2.1 \(3,\) alone"):
        optimizer.step()
    assert model[3].weight.grad.sum(1).abs().max() < 1e-15
    assert torch.equal(head.weight.grad, torch.ones(3, 3))


def _swap(model, i):
    torch.utils.swap_tensors(model[i].weight, nn.Parameter(torch.randn_like(model[i].weight)))


def _swap_two(model, i):
    torch.utils.swap_tensors(model[i].weight, model[2 - i].weight)


def _replace(model, i):
    model[i].weight = nn.Parameter(torch.randn_like(model[i].weight))


def _replace_the_layer(model, i):
    model[i] = nn.Linear(4, 4)


@given(st.lists(st.tuples(st.sampled_from([_swap, _swap_two, _replace, _replace_the_layer]), st.sampled_from([0, 2]))))
@settings(max_examples=25)
def test_in_backward_whatever_becomes_of_the_parameters(changes):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    calls = []
    theirs = model[0].weight.register_hook(calls.append)
    attached = gct.attach(None, model, where="backward")

    def means():
        model.zero_grad()
        calls.clear()
        model(torch.randn(5, 4)).square().sum().backward()
        return [model[i].weight.grad.mean(1).abs().max().item() for i in (0, 2)]

    for change, i in changes:
        change(model, i)
        # Of 4 numbers of size below 1,000, whose mean is rounded like each of them.
        assert max(means()) < 1e-3
        assert len(calls) <= 1
        assert "2 of the model's 4" in repr(attached)
    # Of the model; of two layers and their parameters, as often as a layer was replaced; and what the last change left.
    replaced = sum(change is _replace_the_layer for change, _ in changes)
    assert len(attached._hooks._handles) <= 1 + 2 * (2 + replaced) + 2
    theirs.remove()
    attached.remove()
    assert min(means()) > 1e-3
    assert not calls


def test_an_engine_that_puts_views_of_a_flat_parameter_in_their_place():
    """What FSDP1 does in its forward pass: the layers compute with views, and their own parameters get no gradient."""

    class Flat(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.names = [(m, name) for m in module.modules() for name in m._parameters]
            whole = torch.cat([getattr(m, name).detach().reshape(-1) for m, name in self.names])
            self.shapes = [getattr(m, name).shape for m, name in self.names]
            self.flat = nn.Parameter(whole)
            for m, name in self.names:
                del m._parameters[name]

        def forward(self, x):
            pieces = self.flat.split([shape.numel() for shape in self.shapes])
            for (m, name), piece, shape in zip(self.names, pieces, self.shapes, strict=True):
                setattr(m, name, piece.view(shape))
            return self.module(x)

    model, other = network(), network()
    attached = gct.attach(None, model, where="backward")
    flat = Flat(model)
    for _ in range(2):
        flat.zero_grad()
        loss_of(flat).backward()
        backward(other)
        phi_by_hand(other)
        wanted = torch.cat([p.grad.reshape(-1) for p in other.parameters()])
        assert torch.allclose(flat.flat.grad, wanted, rtol=0, atol=1e-14)
    with torch.no_grad():
        loss_of(flat)
    attached.remove()
    flat.zero_grad()
    loss_of(flat).backward()
    assert not torch.allclose(flat.flat.grad, wanted, rtol=0, atol=1e-6)


# ---- Errors


class NoHooks(torch.optim.Optimizer):
    """A wrapper that does not call the constructor of its base, as some tools have them."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (lambda m: (gct.SGD(m, lr=0.1), m), ValueError, ["gc_torch.SGD centralizes by itself", "torch.optim.SGD"]),
        (lambda m: (gct.AdamW(m), m), ValueError, ["gc_torch.AdamW centralizes by itself", "plan="]),
        (lambda m: (NoHooks(sgd(m)), m), TypeError, ["NoHooks runs no step hooks", 'where="backward"']),
        (lambda m: (m, sgd(m)), TypeError, ["model must be a torch.nn.Module", "SGD"]),
        (lambda m: ("adam", m), TypeError, ["optimizer must be a torch.optim.Optimizer", "str"]),
        (lambda m: (None, m), TypeError, ["optimizer must be", "NoneType"]),
        (lambda m: (sgd(m), m, {"nothing": 1}), ValueError, ["'nothing' matches no parameter"]),
        (lambda m: (sgd(m), m, {"*": None}), ValueError, ["nothing to centralize", "6 parameters", "0.weight"]),
        (lambda m: (torch.optim.SGD([m[0].bias], 0.1), m), ValueError, ["nothing to centralize", "1 parameters"]),
        (lambda m: (sgd(network()), m), ValueError, ["none of the model's 6", "(4, 3, 3)", 'where="backward"']),
    ],
)
def test_what_cannot_be_attached(arguments, error, words):
    model = network()
    arguments = arguments(model)
    with pytest.raises(error) as caught:
        gct.attach(*arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(where="update"), ValueError, "where must be one of 'step', 'backward'; got 'update'"),
        (dict(where=None), TypeError, "where must be one of 'step', 'backward'; got None"),
        (dict(plan=[]), TypeError, "plan must be what gc_torch.plan"),
        (dict(plan=gct.plan(network()), overrides={}), TypeError, "give overrides to the plan"),
        (dict(where="backward", overrides={"*": None}), ValueError, "nothing to centralize among the model's"),
    ],
)
def test_options_that_are_wrong(options, error, words):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(error, match=words):
        gct.attach(optimizer, model, **options)
    assert not optimizer._optimizer_step_pre_hooks and not model[0].weight._backward_hooks


@pytest.mark.parametrize(("first", "second"), [*itertools.product(["step", "backward"], repeat=2)])
def test_attaching_twice_is_an_error(first, second):
    model = network()
    optimizer = sgd(model)
    attached = gct.attach(optimizer, model, where=first)
    with pytest.raises(ValueError, match=r"GC is attached already \(GC .*remove\(\) that first"):
        gct.attach(optimizer, model, where=second)
    attached.remove()
    gct.attach(optimizer, model, where=second)


def test_two_optimizers_of_one_model():
    model = network()
    first, second = torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[3].parameters(), 0.1)
    gct.attach(first, model)
    gct.attach(second, model)
    backward(model)
    first.step()
    assert model[3].weight.grad.sum(1).abs().max() > 1e-4
    second.step()
    assert model[3].weight.grad.sum(1).abs().max() < 1e-15
    with pytest.raises(ValueError, match="attached already"):
        gct.attach(None, model, where="backward"), gct.attach(None, model, where="backward")


def test_a_sparse_gradient_is_an_error_before_anything_changes():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3))
    optimizer = sgd(model)
    gct.attach(optimizer, model, {"0.weight": 1})
    model(torch.tensor([1, 2])).sum().backward()
    before, weights = model[1].weight.grad.clone(), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TypeError, match=r"the gradient of 0.weight .*sparse"):
        optimizer.step()
    assert torch.equal(model[1].weight.grad, before)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
