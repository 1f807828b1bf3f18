"""Two processes: every engine, the optimizers on split parameters, and a checkpoint that others load."""

import warnings
from functools import partial

import processes
import single
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import full
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gc_torch as gct


def check_split_parameters():
    processes.check_split_parameters(init_device_mesh("cpu", (2,)), [(Shard(0),), (Shard(1),), (Replicate(),)])


def check_gradients_that_are_still_to_be_summed():
    mesh = init_device_mesh("cpu", (2,))
    alone, split = nn.Linear(5, 7, bias=False), nn.Linear(5, 7, bias=False)
    split.weight = nn.Parameter(distribute_tensor(alone.weight.detach(), mesh, [Replicate()]))
    grad = torch.randint(-8, 8, (7, 5)).float()
    dist.broadcast(grad, 0)
    alone.weight.grad = 2 * grad
    split.weight.grad = DTensor.from_local(grad, mesh, [Partial()])
    for layer in (alone, split):
        gct.SGD(layer, lr=1.0).step()
    assert torch.equal(split.weight.full_tensor(), alone.weight)


def check_half_precision():
    """Means are those of float32: rounded to bfloat16 they would be off by up to 2, and the weights with them."""
    mesh = init_device_mesh("cpu", (2,))
    alone, split = nn.Linear(64, 3, bias=False), nn.Linear(64, 3, bias=False)
    start = torch.randn(3, 64).bfloat16()
    grad = (400 + torch.randn(3, 64)).bfloat16()
    for tensor in (start, grad):
        dist.broadcast(tensor, 0)
    alone.weight = nn.Parameter(start.clone())
    split.weight = nn.Parameter(distribute_tensor(start, mesh, [Shard(1)]))
    alone.weight.grad, split.weight.grad = grad, distribute_tensor(grad, mesh, [Shard(1)])
    for layer in (alone, split):
        gct.SGD(layer, lr=1.0).step()
    exact = start.double() - (grad.double() - grad.double().mean(1, keepdim=True))
    for layer in (alone, split):
        # Rounded to nearest once, after sums in float32.
        error = (full(layer.weight.detach()).double() - exact).abs()
        assert (error <= 2.0**-8 * exact.abs() * (1 + 2**-6) + 64 * 2.0**-24 * 400).all()


def check_ddp():
    for kind, make in single.OPTIMIZERS.items():
        model = DistributedDataParallel(single.network())
        single.train(model, make(model), processes.mine())
        single.check_equal(processes.whole(model.module), kind)


def shard(model, mesh=None, **options):
    fully_shard(model.block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def check_fsdp2():
    for kind, make in single.OPTIMIZERS.items():
        model = shard(single.network())
        optimizer = make(model)
        assert [row[1:] for row in optimizer.plan.rows] == [row[1:] for row in gct.plan(single.network()).rows]
        single.train(model, optimizer, processes.mine())
        single.check_equal(processes.whole(model), kind)
        assert processes.collectives(optimizer) == 1  # of block.mix, which is stored in first


def check_fsdp2_split_along_the_fan_in():
    def along(p):
        return Shard(1) if p.ndim > 1 and p.shape[1] % 2 == 0 else None

    for kind, make in single.OPTIMIZERS.items():
        model = shard(single.network(), shard_placement_fn=along)
        assert model.block.up.weight.placements == (Shard(1),)
        optimizer = make(model)
        single.train(model, optimizer, processes.mine())
        single.check_equal(processes.whole(model), kind)
        assert processes.collectives(optimizer) == 1  # of all that are split, together


def check_fsdp2_offloaded_to_the_cpu():
    model = shard(single.network(), offload_policy=CPUOffloadPolicy(pin_memory=False))
    single.train(model, single.OPTIMIZERS["AdamW"](model), processes.mine())
    single.check_equal(processes.whole(model), "AdamW")


def check_fsdp2_in_mixed_precision():
    """The gradients are those of bfloat16; what the optimizer does with them is what it does on one process."""
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, alone, moved = shard(single.network(), mp_policy=mixed), single.network(), single.network()
    known = 2.0**-30
    optimizers = [single.OPTIMIZERS["AdamW"](one) for one in (model, alone, moved)]
    for step, (tokens, targets) in enumerate(processes.mine()):
        single.loss(model, tokens, targets).backward()
        for p, q, r in zip(model.parameters(), alone.parameters(), moved.parameters(), strict=True):
            q.grad = p.grad.full_tensor()
            r.grad = q.grad + known * q.grad.abs().max() * torch.randn_like(q)
        for optimizer in optimizers:
            optimizer.step()
        optimizers[0].zero_grad()
        expected = {name: q.detach() for name, q in alone.named_parameters()}
        allowed = processes.allowed_after(step + 1, alone, moved, known)
        assert single.distance(processes.whole(model), expected) <= allowed < 1e-9


def check_a_scaler_skips_a_step_on_all_when_one_has_an_infinity():
    for cls in (gct.SGD, gct.AdamW):
        for fused in (None, True):
            model = shard(
                single.network().float(), shard_placement_fn=lambda p: Shard(1) if p.shape == (10, 8) else None
            )
            optimizer, scaler = cls(model, lr=0.1, fused=fused), torch.amp.GradScaler("cpu", init_scale=4.0)
            before = processes.whole(model)
            for step, (tokens, targets) in enumerate(processes.mine()[:2]):
                scaler.scale(single.loss(model, tokens, targets)).backward()
                if step == 0 and dist.get_rank() == 0:
                    model.block.up.weight.grad.to_local()[0, 0] = torch.inf
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                assert scaler.get_scale() == 2.0
                assert (single.distance(processes.whole(model), before) == 0) == (step == 0)


def check_tensor_parallel():
    mesh = init_device_mesh("cpu", (2,))
    for kind, make in single.OPTIMIZERS.items():
        model = single.network()
        parallelize_module(
            model,
            mesh,
            {
                "block.up": ColwiseParallel(output_layouts=Replicate()),
                "down": RowwiseParallel(input_layouts=Replicate()),
            },
        )
        assert model.down.weight.placements == (Shard(1),)
        optimizer = make(model)  # DTensors and plain tensors side by side
        single.train(model, optimizer, single.batches())
        single.check_equal(processes.whole(model), kind)
        assert processes.collectives(optimizer) == 1  # of down


def check_zero_redundancy_optimizer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which PyTorch uses here itself
        from torch.distributed.optim import ZeroRedundancyOptimizer
    for view in (False, True):
        for kind, make in single.OPTIMIZERS.items():
            model = DistributedDataParallel(single.network())
            make = partial(make, plan=gct.plan(model))
            optimizer = ZeroRedundancyOptimizer(model.parameters(), make, parameters_as_bucket_view=view)
            assert "plan" not in optimizer.param_groups[0]
            single.train(model, optimizer, processes.mine())
            single.check_equal(processes.whole(model.module), kind)


def check_parameters_that_an_engine_has_replaced_one_by_one():
    """As Accelerate does: the optimizer is made first, and its groups are given the sharded parameters after."""
    model = single.network()
    optimizer = single.OPTIMIZERS["AdamW"](model)
    shard(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    single.train(model, optimizer, processes.mine())
    single.check_equal(processes.whole(model), "AdamW")


def check_a_plan_made_before_sharding_is_that_of_the_model_as_it_is_now():
    model = single.network()
    plan = gct.plan(model)
    shard(model)
    optimizer = partial(single.OPTIMIZERS["AdamW"], plan=plan)(model.parameters())
    single.train(model, optimizer, processes.mine())
    single.check_equal(processes.whole(model), "AdamW")


def fsdp1(model, original):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated
        return FullyShardedDataParallel(model, use_orig_params=original, device_id=torch.device("cpu"))


def check_fsdp1_is_an_error():
    for original in (False, True):
        model = fsdp1(single.network(), original)
        for make in (gct.plan, gct.AdamW, lambda model: gct.AdamW(model.parameters())):
            message = processes.raised(ValueError, lambda make=make, model=model: make(model))
            assert "flat shard" in message and "fully_shard" in message and "gc_torch.attach" in message, message


def check_fsdp1_with_gc_in_the_backward_pass():
    for original in (False, True):
        model = single.network()
        gct.attach(None, model, where="backward")
        model = fsdp1(model, original)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
        single.train(model, optimizer, processes.mine())
        with warnings.catch_warnings(), FullyShardedDataParallel.summon_full_params(model):
            single.check_equal({name: p.detach().clone() for name, p in model.module.named_parameters()}, "AdamW")


def check_gc_attached_to_an_optimizer_of_sharded_parameters():
    for along in (None, lambda p: Shard(1) if p.shape == (10, 8) else None):
        model = shard(single.network(), shard_placement_fn=along)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
        gct.attach(optimizer, model)
        single.train(model, optimizer, processes.mine())
        single.check_equal(processes.whole(model), "AdamW")


def check_save():
    model = shard(single.network(), shard_placement_fn=lambda p: Shard(1) if p.shape == (10, 8) else None)
    optimizer = single.OPTIMIZERS["AdamW"](model)
    single.train(model, optimizer, processes.mine()[:2])
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=processes.folder() / "checkpoint")


if __name__ == "__main__":
    processes.main(globals())
