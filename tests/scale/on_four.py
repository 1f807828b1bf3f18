"""Four processes: meshes of two axes, shards that are uneven or empty, and a checkpoint that two have saved."""

import warnings

import processes
import single
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

KINDS = ("SGD, L2", "AdamW, on the update")  # the others two processes have checked


def shard(model, mesh=None):
    fully_shard(model.block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check_split_parameters():
    processes.check_split_parameters(init_device_mesh("cpu", (4,)), [(Shard(0),), (Shard(1),)], KINDS)


def check_split_parameters_on_two_axes():
    processes.check_split_parameters(
        init_device_mesh("cpu", (2, 2)),
        [
            (Shard(0), Shard(1)),
            (Shard(1), Shard(0)),
            (Shard(1), Shard(1)),
            (Replicate(), Shard(1)),
            (Shard(0), Shard(0)),
        ],
    )


def check_fsdp2():
    for kind in KINDS:
        model = shard(single.network())
        single.train(model, single.OPTIMIZERS[kind](model), processes.mine())
        single.check_equal(processes.whole(model), kind)


def check_fsdp2_with_replicas():
    model = shard(single.network(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    single.train(model, single.OPTIMIZERS["AdamW"](model), processes.mine())
    single.check_equal(processes.whole(model), "AdamW")


def check_fsdp2_and_tensor_parallel():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = single.network()
    plan = {
        "block.up": ColwiseParallel(output_layouts=Replicate()),
        "down": RowwiseParallel(input_layouts=Replicate()),
    }
    parallelize_module(model, mesh["tensor"], plan)
    model = shard(model, mesh["data"])
    # What the last layer gives is a view, which FSDP2 would not have changed in place; nothing does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    single.train(model, single.OPTIMIZERS["AdamW"](model), processes.mine(mesh["data"]))
    single.check_equal(processes.whole(model), "AdamW")


def check_load_what_two_have_saved():
    model = shard(single.network())
    optimizer = single.OPTIMIZERS["AdamW"](model)
    plan = optimizer.plan.to_dicts()
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=processes.folder() / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    assert optimizer.plan.to_dicts() == plan
    single.train(model, optimizer, processes.mine()[2:])
    single.check_equal(processes.whole(model), "AdamW")


if __name__ == "__main__":
    processes.main(globals())
