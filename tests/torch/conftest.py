import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors, and other tests beside these: more threads only wait for each other."""
    torch.set_num_threads(1)
