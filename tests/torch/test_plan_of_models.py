"""A plan and the model it is of: it keeps nothing alive, can be asked again, and takes any form of a model."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gc_torch as gct
from gc_core.reasons import Reason, reason_of
from gc_torch.plan import view_of, views, warn_if_left_out


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def axes(plan):
    return {row.name: row.axes for row in plan.rows}


# ---- Nothing is kept alive


@pytest.mark.parametrize("batch", [None, torch.ones(2, 4)])
def test_a_plan_keeps_neither_the_model_nor_its_parameters(batch):
    model = mlp()
    plan = gct.plan(model, batch=batch, verify=batch)
    watched = [weakref.ref(model), *map(weakref.ref, model.parameters())]
    assert plan.model is model and len(plan.parameters) == 4
    del model
    gc.collect()
    assert [one() for one in watched] == [None] * 5
    assert plan.model is None and plan.parameters == {} and plan.again() is plan
    assert axes(plan)["0.weight"] == (1,)  # what it says stays


def test_parameters_replaced_again_and_again_die():
    model = mlp()
    plan = gct.plan(model)
    old = []
    for _ in range(5):
        old.append(weakref.ref(model[0].weight))
        model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        plan = plan.again()
    gc.collect()
    assert [one() for one in old] == [None] * 5
    assert plan.row_of(model[0].weight) == gct.plan(model)["0.weight"] and len(plan.rows) == 4


def test_a_plan_is_asked_again():
    model = mlp()
    plan = gct.plan(model, {"*.weight": 0, "2.bias": None})
    model[0].weight = nn.Parameter(torch.randn(8, 4))  # of the same shape: the same row
    model[2] = nn.Linear(8, 5)  # of another shape: a new row, with the overrides
    model.append(nn.Linear(5, 2))
    model[0].bias.requires_grad_(False)
    again = plan.again()
    assert axes(again) == {
        "0.weight": (0,), "0.bias": None, "2.weight": (0,), "2.bias": None, "3.weight": (0,), "3.bias": None,
    }  # fmt: skip
    assert again["0.bias"].frozen and not plan["0.bias"].frozen
    assert all(again.row_of(p) is again[name] for name, p in model.named_parameters())
    del model[2:]
    assert list(plan.again()) == ["0.weight", "0.bias"]


def test_what_a_batch_has_shown_stays_when_asked_again():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return x @ self.w

    model = Mix()
    plan = gct.plan(model, batch=torch.ones(2, 4))
    model.w = nn.Parameter(torch.randn(4, 3))
    assert plan.again().row_of(model.w).axes == (0,)


def test_copies_know_the_copied_parameters():
    model = mlp()
    plan = gct.plan(model, {"0.weight": 0})
    for copied_model, copied in (copy.deepcopy((model, plan)), pickle.loads(pickle.dumps((model, plan)))):
        assert copied.rows == plan.rows
        assert copied.row_of(copied_model[0].weight).axes == (0,) and copied.row_of(model[0].weight) is None
    copied_model, copied = copy.deepcopy((model, plan))
    assert copied.model is copied_model and copied.again().row_of(copied_model[0].weight).axes == (0,)
    assert pickle.loads(pickle.dumps(plan)).model is None


# ---- One parameter at a time


def test_views_and_view_of_one_parameter_are_what_the_plan_says():
    model = nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(4, 6, 2, groups=2),
            "normed": parametrizations.weight_norm(nn.Linear(4, 3)),
            "spectral": nn.utils.spectral_norm(nn.Conv1d(4, 3, 2)),
            "table": nn.Embedding(5, 4),
        }
    )
    plan = gct.plan(model)
    assert {p: tuple(view[:2]) for p, view in views(model).items()} == {
        p: (plan.row_of(p).view, plan.row_of(p).axes) for p in model.parameters()
    }
    for name, p in model.named_parameters():
        layer, _, local = name.partition(".")
        assert view_of(model[layer], local, p)[:2] == (plan[name].view, plan[name].axes), name
    with pytest.raises(ValueError, match="lazy"):
        view_of(layer := nn.LazyLinear(3), "weight", layer.weight)


# ---- Forms of a model


def test_a_list_of_modules():
    nets = [mlp(), nn.Conv1d(2, 3, 2)]
    plan = gct.plan(nets)
    assert axes(plan) == axes(gct.plan(nn.ModuleList(nets)))
    assert plan.row_of(nets[1].weight) is plan["1.weight"]
    read = gct.plan(nets, batch=lambda nets: (nets[0](torch.ones(1, 4)), nets[1](torch.ones(1, 2, 5))))
    assert axes(read) == axes(plan) and all(row.verification == "read from the program" for row in read.rows)
    groups = gct.param_groups(nets)
    assert [len(group["params"]) for group in groups] == [3, 3]
    model = plan.model
    assert model == nets and axes(plan.again()) == axes(plan)
    watched = weakref.ref(nets[0])
    del nets, read, groups, model
    gc.collect()
    assert watched() is None


class Adapter(nn.Module):
    """Its parameters() gives the trainable ones only, as those of adapters do."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 2)

    def parameters(self, recurse=True):
        return (p for p in super().parameters(recurse) if p.requires_grad)

    def named_parameters(self, *args, **kwargs):
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if p.requires_grad)

    def forward(self, x):
        return self.head(self.body(x))


class Strangers(Adapter):
    """Its parameters() gives one that is in no module."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Parameter(torch.ones(3, 2))]

    def parameters(self, recurse=True):
        yield from super().parameters(recurse)
        yield from self.hidden


def test_a_model_whose_parameters_are_overridden():
    model = Adapter()
    plan = gct.plan(model, batch=torch.ones(1, 4), verify=torch.ones(1, 4))
    assert axes(plan) == {"body.weight": (1,), "body.bias": None, "head.weight": (1,), "head.bias": None}
    assert [row.frozen for row in plan.rows] == [True, True, False, False]
    assert "1 of 2 trainable (2 frozen)" in plan.to_text()
    assert [group["params"] for group in gct.param_groups(model)] == [[model.head.weight], [model.head.bias]]
    strange = Strangers()
    decayed, rest = (group["params"] for group in gct.param_groups(strange))
    assert decayed[1] is strange.hidden[0] and len(decayed) == 2 and len(rest) == 1


def test_parameter_containers_are_bare_parameters():
    """As for torch.optim, which takes a ParameterList as an iterable of tensors; inside a model they are unknown."""
    weights = nn.ParameterList([nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))])
    plan = gct.plan(weights)
    assert axes(plan) == {"0": (1,), "1": None} and plan["0"].why == "by shape alone: stored (out, in…)"
    assert axes(gct.plan(nn.ParameterDict({"a": nn.Parameter(torch.randn(3, 4))}))) == {"a": (1,)}
    assert [len(group["params"]) for group in gct.param_groups(weights)] == [1, 1]
    with pytest.warns(gct.GCWarning, match=r"0\.0 \(3×4\)"):
        assert axes(gct.plan(nn.ModuleList([weights]))) == {"0.0": None, "0.1": None}


# ---- Names that say what a parameter is


def test_scales_and_biases_by_their_names():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 3), Norm()
            self.attention_biases = nn.Parameter(torch.zeros(2, 9))
            self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))
            self.alpha, self.beta = nn.Parameter(torch.ones(1, 4, 1, 1)), nn.Parameter(torch.zeros(1, 4, 1, 1))
            self.logit_scale = nn.Parameter(torch.ones(()))

    model = Model()
    plan = gct.plan(model)
    assert not [row.name for row in plan.rows if reason_of(row.why) is Reason.UNKNOWN]
    decayed, _ = gct.param_groups(model)
    assert decayed["params"] == [model.fc.weight]


def test_a_users_class_with_the_name_of_a_librarys_is_unknown():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

    class Conv1D(Linear):
        pass

    for cls in (Linear, Conv1D):
        with pytest.warns(gct.GCWarning, match="nothing that trains"):
            assert reason_of(gct.plan(cls())["weight"].why) is Reason.UNKNOWN


def library(name, cls, **attributes):
    """A class as a library of that name defines it."""
    made = type(cls, (nn.Module,), {"__module__": f"{name}.nn.layers"})
    layer = type(f"My{cls}", (made,), {})()  # and a subclass of it
    for attribute, value in attributes.items():
        setattr(layer, attribute, value)
    return layer


@pytest.mark.parametrize(
    ("name", "cls", "local", "shape", "attributes", "wanted"),
    [
        ("torch_geometric", "Linear", "weight", (3, 4), {}, ((3, 4), (1,))),
        ("torch_geometric", "HeteroLinear", "weight", (2, 4, 3), {}, ((2, 4, 3), (1,))),
        ("timm", "CondConv2d", "weight", (4, 24), {"weight_shape": (3, 2, 2, 2)}, ((4, 3, 2, 2, 2), (2, 3, 4))),
        ("transformers", "Llama4TextExperts", "gate_up_proj", (2, 4, 6), {}, ((2, 4, 6), (1,))),
        ("transformers", "XLNetRelativeAttention", "o", (8, 2, 4), {}, ((8, 2, 4), (1, 2))),
    ],
)
def test_classes_of_libraries(name, cls, local, shape, attributes, wanted):
    layer = library(name, cls, **attributes)
    setattr(layer, local, nn.Parameter(torch.randn(shape)))
    row = gct.plan(layer)[local]
    assert (row.view, row.axes) == wanted and reason_of(row.why) is Reason.LAYER


# ---- What is left out is warned of, once


def test_one_warning_and_where_it_points():
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(4, 4))
    with pytest.warns(gct.GCWarning, match=r"gc_torch\.plan\(model, batch=…\).*overrides=\{'w': axes\}") as caught:
        plan = gct.plan(model)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(gct.GCWarning) as caught:
        warn_if_left_out(plan)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gct.plan(model, {"w": None})
        gct.plan(mlp())
