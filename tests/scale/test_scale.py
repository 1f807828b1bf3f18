"""The result on N processes is that on one, to rounding: the scripts here say what is checked, in real processes."""

import processes
import pytest
import single
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import gc_torch as gct


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as it is meant to be for one
def test_two_processes_then_four_then_one(tmp_path, subtests):
    for script, size in (("on_two.py", 2), ("on_four.py", 4)):
        for name, wrong in processes.run(script, size, tmp_path).items():
            with subtests.test(script, check=name):
                assert not wrong, wrong

    with subtests.test("a checkpoint that two have saved, loaded by one"):
        model = single.network()
        optimizer = single.OPTIMIZERS["AdamW"](model)
        weights, state = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
        single.train(model, optimizer, single.batches()[2:])
        single.check_equal({name: p.detach() for name, p in model.named_parameters()}, "AdamW")


# ---- Flat pieces, which need no processes to be seen


def test_an_engine_that_puts_flat_pieces_in_place_of_the_parameters_is_an_error():
    """What DeepSpeed's ZeRO does to the optimizer that it is given: every group gets one flat tensor."""
    model = single.network()
    optimizer = gct.AdamW(gct.param_groups(model), plan=gct.plan(model))
    for group in optimizer.param_groups:
        flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in group["params"]]))
        flat.grad = torch.ones_like(flat)
        group["params"] = [flat]
    before = [group["params"][0].detach().clone() for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=r"something has replaced them all.*ZeRO.*fully_shard.*gc_torch.attach"):
        optimizer.step()
    for group, flat in zip(optimizer.param_groups, before, strict=True):
        assert torch.equal(group["params"][0], flat)
    assert not optimizer.state

    for group in optimizer.param_groups:
        group["gc_on"] = None  # asked for: no GC
    optimizer.step()


def test_one_parameter_put_in_by_hand_is_no_engine():
    model = single.network()
    optimizer = gct.SGD(model, lr=0.1)
    bias = nn.Parameter(torch.zeros(3))
    bias.grad = torch.ones(3)
    optimizer.param_groups[0]["params"].append(bias)
    optimizer.step()
    assert torch.equal(bias.detach(), torch.full((3,), -0.1))


def test_a_plan_of_another_model_is_an_error():
    with pytest.raises(ValueError, match="plan must be made of the model whose parameters these are; it has 9"):
        gct.SGD(single.network().parameters(), plan=gct.plan(single.network()))
