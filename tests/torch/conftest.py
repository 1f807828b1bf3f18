import gc

import pytest
import torch

# They look for what was there before them: caches of functions, and who refers to what.
LOOK_EVERYWHERE = {"test_leftovers", "test_plan_of_models", "test_program", "test_rows", "test_verify"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors, and other tests beside these: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def few_objects(request):
    """An optimizer of bare parameters looks for their owners among all objects; hundreds of tests leave millions."""
    if request.path.stem in LOOK_EVERYWHERE:
        yield
        return
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
