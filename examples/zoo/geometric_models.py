"""Layers of PyTorch Geometric on a small graph."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch_geometric import nn as pyg

from examples.zoo.model import Model

NODES = torch.rand(6, 8)
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])
TYPES = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
WITH_EDGES = torch.rand(8, 4)


def _mlp(size: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, out))


LAYERS: dict[str, Any] = {
    **{
        name: lambda name=name: getattr(pyg, name)(8, 5)
        for name in (
            "GCNConv", "SAGEConv", "GraphConv", "GATConv", "GATv2Conv", "TransformerConv", "TAGConv", "ARMAConv",
            "SGConv", "SSGConv", "MFConv", "LEConv", "ClusterGCNConv", "GENConv", "FiLMConv", "SuperGATConv",
            "EGConv", "GeneralConv", "ResGatedGraphConv", "FeaStConv", "HypergraphConv",
        )
    },
    "ChebConv": lambda: pyg.ChebConv(8, 5, 3),
    "GatedGraphConv": lambda: pyg.GatedGraphConv(8, 2),
    "GINConv": lambda: pyg.GINConv(_mlp(8, 5)),
    "EdgeConv": lambda: pyg.EdgeConv(_mlp(16, 5)),
    "AntiSymmetricConv": lambda: pyg.AntiSymmetricConv(8),
    "AGNNConv": lambda: pyg.AGNNConv(),
    "FAConv": lambda: pyg.FAConv(8),
    "GCN2Conv": lambda: pyg.GCN2Conv(8, 0.1),
    "RGCNConv": lambda: pyg.RGCNConv(8, 5, 2),
    "RGCNConv, bases": lambda: pyg.RGCNConv(8, 5, 2, num_bases=2),
    "RGATConv": lambda: pyg.RGATConv(8, 5, 2),
    "CGConv": lambda: pyg.CGConv(8, dim=4),
    "GINEConv": lambda: pyg.GINEConv(_mlp(8, 5), edge_dim=4),
    "GATConv, with edges": lambda: pyg.GATConv(8, 5, heads=2, edge_dim=4),
    "NNConv": lambda: pyg.NNConv(8, 5, _mlp(4, 40)),
    "GMMConv": lambda: pyg.GMMConv(8, 5, 4, 3),
    "PNAConv": lambda: pyg.PNAConv(8, 5, ["mean", "max"], ["identity", "linear"], torch.tensor([1, 3, 2])),
    "Linear": lambda: pyg.Linear(8, 5),
    "GCN": lambda: pyg.GCN(8, 8, 2, 5),
    "GAT": lambda: pyg.GAT(8, 8, 2, 5, heads=2),
    "GraphSAGE": lambda: pyg.GraphSAGE(8, 8, 2, 5),
    "GIN": lambda: pyg.GIN(8, 8, 2, 5),
    "HeteroLinear": lambda: pyg.HeteroLinear(8, 5, 2),
}  # fmt: skip


def models() -> Iterator[Model]:
    for name, build in LAYERS.items():
        yield Model("PyTorch Geometric", name, build, _batches)


def _batches(model: Any) -> Iterator[Any]:
    yield (NODES, EDGES, WITH_EDGES)
    yield (NODES, EDGES, TYPES)
    yield (NODES, EDGES)
    yield (NODES, NODES, EDGES)
    yield NODES
    yield (NODES, TYPES[:6])
