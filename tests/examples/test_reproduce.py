"""The paper's experiments: each recipe for a few steps, on tiny data of the format that it is published in.

What needs torchvision, which no test environment of ours has, is not run here: two networks for CIFAR-100 (`vgg11`,
`densenet121`), of which it is tested what is said without it; and COCO, where a script in the manner of torchvision's
takes the place of torchvision's.
"""

import contextlib
import io
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console

import gc_core
import gc_torch as gct
from examples.reproduce import checkpoint, coco, command, data, models, table, training
from examples.reproduce import recipe as recipes
from examples.reproduce.recipe import Wrong

KILLS = int(os.environ.get("KILLS", "2"))  # KILLS=10 for more
# The networks have all their layers, and few channels.
TINY = ["width=16", "crop=16", "epochs=1", "batch=8"]


def make_cifar(folder, train=16, test=8):
    """Random images in the files of cifar-100-python."""
    rng = np.random.default_rng(0)
    where = folder / "cifar-100-python"
    where.mkdir(parents=True)
    for name, n in (("train", train), ("test", test)):
        labels = rng.integers(100, size=n).tolist()
        batch = {
            b"data": rng.integers(256, size=(n, 3072), dtype=np.uint8),
            b"fine_labels": labels,
            b"coarse_labels": [label // 5 for label in labels],
            b"filenames": [b"%d.png" % i for i in range(n)],
            b"batch_label": b"one of one",
        }
        # Protocol 2 is that of the published file.
        (where / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def make_folders(folder, parts, classes=3, each=4):
    """Random images as PART/CLASS/IMAGE, larger than high, JPEG and PNG."""
    rng = np.random.default_rng(0)
    for part in parts:
        for label in range(classes):
            (folder / part / f"class{label}").mkdir(parents=True)
            for i in range(each):
                image = Image.fromarray(rng.integers(256, size=(40, 52, 3), dtype=np.uint8))
                image.save(folder / part / f"class{label}" / f"{i}.{'jpg' if i else 'png'}")
    return folder


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    return make_cifar(tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("folders"), ("train", "val", "test"))


def run(recipe, folder, out, *settings, **options):
    command.run(recipe, folder, settings=[*TINY, *settings], out=out, **options)


def refused(call, *words):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(typer.Exit) as stopped:
        call()
    assert stopped.value.exit_code == 2
    for word in words:
        assert word in said.getvalue(), said.getvalue()


# ---- Every recipe


CIFAR = [
    *[("cifar100", variant, "sgdm", "gradient") for variant in ("resnet50", "resnet18", "resnet101", "resnext50")],
    *[("cifar100", "resnet18", optimizer, "gradient") for optimizer in ("adam", "adamw", "adagrad")],
    ("cifar100", "resnet18", "adamw", "update"),
    ("cifar100", "resnet18", "adagrad", "off"),
    ("cifar100", "resnet18", "sgdm", "off"),
]
FOLDERS = [
    *[("mini-imagenet", variant, "sgdm", "gradient") for variant in ("bn", "bn-ws")],
    *[("imagenet", variant, "sgdm", "gradient") for variant in ("r50-bn", "r50-gn", "r101-bn", "r101-gn")],
    *[("fine-grained", variant, "sgdm", "gradient") for variant in ("aircraft", "cars", "dogs", "cub")],
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Pretrained weights, as a file: those of a ResNet-50 with another head."""
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.manual_seed(5)
    torch.save(models.ResNet(recipes.load("imagenet", "r50-bn", "sgdm", ["width=16"])).state_dict(), file)
    return file


@pytest.mark.parametrize(("recipe", "variant", "optimizer", "place"), [*CIFAR, *FOLDERS])
def test_a_recipe_runs(recipe, variant, optimizer, place, cifar, folders, weights, tmp_path, capsys):
    options = {"variant": variant, "optimizer": optimizer, "gc": place}
    if recipe == "cifar100":
        run(recipe, cifar, tmp_path, **options)
    else:
        options["weights"] = weights if recipe == "fine-grained" else None
        run(recipe, folders, tmp_path, "classes=3", "resize=20", **options)
    folder = tmp_path / recipe / f"{variant}-{optimizer}-gc_{place}-seed0"
    (line,) = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    measure = recipes.read(recipe)["measure"]
    assert math.isfinite(line["train_loss"]) and 0 <= line[measure] <= 100
    assert f"{variant} {optimizer}, here" in capsys.readouterr().out
    assert json.loads((folder / "result.json").read_text())["last"] == line


def test_every_variant_of_every_recipe_is_run_or_named_above():
    run_here = {(recipe, variant) for recipe, variant, _, _ in [*CIFAR, *FOLDERS]}
    there_are = {(name, variant) for name in recipes.names() for variant in recipes.read(name)["variants"]}
    not_run = there_are - run_here
    assert not_run == {
        *[("cifar100", variant) for variant in ("vgg11", "densenet121")],
        *[("coco", variant) for variant in recipes.read("coco")["variants"]],
    }


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_file_is_right_for_every_variant_and_optimizer(name):
    file = recipes.read(name)
    for variant in file["variants"]:
        for optimizer in file["optimizers"]:
            recipe = recipes.load(name, variant, optimizer, [])
            assert all(milestone < recipe.epochs for milestone in recipe.milestones)
    for row in file.get("paper", []):
        assert row["variant"] in file["variants"] and row["optimizer"] in file["optimizers"]


# ---- What GC and the optimizer see


def test_gc_is_on_convolutions_only_where_the_paper_says_so():
    for name, on_the_head in (("imagenet", False), ("mini-imagenet", True)):
        recipe = recipes.load(
            name, next(iter(recipes.read(name)["variants"])), "sgdm", ["model='resnet18'", "width=16"]
        )
        model = models.build(recipe, None)
        plan = training.make_plan(model, recipe)
        assert (plan["fc.weight"].axes is not None) == on_the_head
        convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
        assert all(plan[f"{name}.weight"].axes == (1, 2, 3) for name in convolutions) and len(convolutions) == 20
        on = [row for row in plan.rows if row.axes is not None]
        assert len(on) == len(convolutions) + on_the_head


def test_the_head_has_its_own_learning_rate(weights):
    recipe = recipes.load("fine-grained", "cub", "sgdm", ["width=16"])
    model = models.build(recipe, weights)
    body, last = training.make_optimizer(model, recipe, "gradient").param_groups
    assert (body["lr"], last["lr"]) == (0.01, 0.1)
    assert {id(p) for p in last["params"]} == {id(model.fc.weight), id(model.fc.bias)}
    assert len(body["params"]) + 2 == len(list(model.parameters()))
    torch.testing.assert_close(
        model.state_dict()["layer1.0.conv1.weight"], torch.load(weights)["layer1.0.conv1.weight"]
    )


def test_adagrad_has_gc_in_front_with_the_decay_inside():
    """Against Adagrad's rule written out, with numbers of few bits so that the means are exact."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, bias=False))
    recipe = recipes.load("cifar100", "resnet18", "adagrad", ["weight_decay=0.5", "lr=0.25", "width=16"])
    plan = gct.plan(model)
    optimizer = training.adagrad(
        model, [{"params": list(model.parameters())}], plan, "gradient", lr=0.25, weight_decay=0.5
    )
    w = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]], [[[0.5, 0.25], [-1.0, 2.0]]]])
    g = torch.tensor([[[[2.0, 1.0], [0.0, -1.0]]], [[[4.0, 0.0], [1.0, 0.5]]]])
    with torch.no_grad():
        model[0].weight.copy_(w)
    model[0].weight.grad = g.clone()
    optimizer.step()
    inside = g + 0.5 * w
    inside = inside - inside.mean((1, 2, 3), keepdim=True)
    # The first step of Adagrad divides by the gradient's own magnitude.
    wanted = w - 0.25 * inside / (inside.abs() + 1e-10)
    torch.testing.assert_close(model[0].weight.detach(), wanted, rtol=0, atol=4 * 2.0**-23)
    with pytest.raises(Wrong, match="--gc update"):
        training.make_optimizer(models.build(recipe, None), recipe, "update")


def test_off_is_pytorchs_own_and_gradient_is_not(cifar, tmp_path, monkeypatch):
    images = data.load(recipes.load("cifar100", "resnet18", "sgdm", TINY), cifar, tmp_path)
    recipe = recipes.load("cifar100", "resnet18", "sgdm", TINY)
    ends = {}
    for place in ("off", "gradient", "torch"):
        if place == "torch":
            monkeypatch.setattr(
                gct, "SGD", lambda params, *, plan, gc_on, **options: torch.optim.SGD(params, **options)
            )
        training.train(
            recipe,
            "off" if place == "torch" else place,
            0,
            images,
            made(tmp_path / place),
        )
        ends[place] = checkpoint.load(tmp_path / place / "checkpoint.pt")["model"]
    assert all(torch.equal(ends["off"][name], ends["torch"][name]) for name in ends["off"])
    assert not torch.equal(ends["off"]["conv1.weight"], ends["gradient"]["conv1.weight"])


def made(folder):
    folder.mkdir(parents=True)
    return folder


# ---- Models


def test_weight_standardization_is_that_of_the_theory():
    conv = models.StandardizedConv2d(3, 4, 3, bias=False).double()
    filters = conv.weight.detach().numpy().reshape(4, -1)
    standardized = torch.from_numpy(gc_core.theory.weight_standardization(filters.T).T.reshape(4, 3, 3, 3))
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    # The 1e-10 beside a variance of about 0.01 is 1e-8 of it.
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, standardized), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # He et al., and Xie et al., with 1000 classes.
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnext50_32x4d", 25_028_904),
    ],
)
def test_networks_have_the_size_they_are_known_for(model, parameters):
    with torch.device("meta"):
        built = models.ResNet(recipes.load("imagenet", "r50-bn", "sgdm", [f"model='{model}'"]))
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert models.head(built) == "fc"


def test_group_normalization_has_no_running_statistics():
    with torch.device("meta"):
        built = models.ResNet(recipes.load("imagenet", "r50-gn", "sgdm", []))
    assert not list(built.buffers()) and any(isinstance(module, torch.nn.GroupNorm) for module in built.modules())


@pytest.mark.parametrize("variant", ["vgg11", "densenet121"])
def test_what_is_said_without_torchvision(variant, cifar, tmp_path, monkeypatch):
    for name in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(lambda: run("cifar100", cifar, tmp_path, variant=variant), "torchvision or timm", "resnet50")


def test_weights_are_refused_by_name(weights, tmp_path):
    recipe = recipes.load("fine-grained", "cub", "sgdm", ["width=16"])
    for file, word in (
        (None, "--weights"),
        (tmp_path / "none.pth", "not a file"),
        (weights, "another network"),
        (tmp_path / "broken.pth", "cannot be read"),
        (tmp_path / "pickled.pth", "cannot be read"),
    ):
        if file and file.name == "broken.pth":
            file.write_bytes(weights.read_bytes()[:10_000])
        if file and file.name == "pickled.pth":
            torch.save({"conv1.weight": Hostile()}, file)
        one = (
            recipes.load("fine-grained", "cub", "sgdm", ["model='resnet18'", "width=16"]) if file == weights else recipe
        )
        with pytest.raises(Wrong, match=word):
            models.build(one, file)
    assert not Hostile.ran


# ---- Data: what is broken is named, before training


class Hostile:
    ran = False

    def __reduce__(self):
        return (setattr, (Hostile, "ran", True))


def test_cifar_reads_the_archive_and_the_folder_alike(cifar, tmp_path):
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
        tar.add(cifar / "cifar-100-python", "cifar-100-python")
    for one, other in zip(data.cifar100(cifar), data.cifar100(tmp_path), strict=True):
        assert one.labels == other.labels and np.array_equal(one.images, other.images)
    batch = pickle.loads((cifar / "cifar-100-python/train").read_bytes())
    image = np.asarray(data.cifar100(cifar)[0].picture(3))
    red, green, blue = batch[b"data"][3].reshape(3, 32, 32)
    assert np.array_equal(image[..., 0], red) and np.array_equal(image[..., 2], blue) and image[5, 7, 1] == green[5, 7]


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "hostile", "other", "labels", "archive"])
def test_a_broken_cifar_is_named(how, tmp_path):
    make_cifar(tmp_path)
    where = tmp_path / "cifar-100-python" / "test"
    content = where.read_bytes()
    match how:
        case "missing":
            where.unlink()
        case "cut":
            where.write_bytes(content[: len(content) // 2])
        case "empty":
            where.write_bytes(b"")
        case "hostile":
            where.write_bytes(pickle.dumps({b"data": Hostile()}, protocol=2))
        case "other":
            where.write_bytes(pickle.dumps({b"data": np.zeros((3, 5)), b"fine_labels": [1, 2, 3]}, protocol=2))
        case "labels":
            where.write_bytes(pickle.dumps({**pickle.loads(content), b"fine_labels": [100] * 8}, protocol=2))
        case "archive":
            shutil.rmtree(where.parent)
            (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"\x1f\x8b no archive")
            where = tmp_path / "cifar-100-python.tar.gz"
    refused(lambda: run("cifar100", tmp_path, tmp_path / "out"), "cannot be read", where.name)
    assert not Hostile.ran and not list(tmp_path.glob("out/*/*/*.jsonl"))


def test_no_cifar_and_no_folder_are_named(tmp_path):
    refused(lambda: run("cifar100", tmp_path, tmp_path), "cifar-100-python.tar.gz", str(tmp_path))
    refused(lambda: run("cifar100", tmp_path / "none", tmp_path), "is not a folder", "none")


@pytest.mark.parametrize("how", ["cut", "text", "no part", "no class", "empty class", "classes"])
def test_a_broken_image_folder_is_named(how, tmp_path):
    folder = make_folders(tmp_path / "data", ("train", "val"))
    victim = folder / "train/class1/2.jpg"
    words = ["2.jpg"]
    settings = ["classes=3", "resize=20"]
    match how:
        case "cut":
            victim.write_bytes(victim.read_bytes()[:900])
        case "text":
            victim.write_text("no image")
        case "no part":
            shutil.rmtree(folder / "val")
            words = ["val is missing"]
        case "no class":
            shutil.rmtree(folder / "val/class1")
            words = ["same classes", "class1"]
        case "empty class":
            for file in (folder / "val/class1").iterdir():
                file.unlink()
            words = ["class1 holds no image"]
        case "classes":
            settings, words = ["resize=20"], ["3 folders", "1000 classes"]
    refused(lambda: run("imagenet", folder, tmp_path / "out", *settings), *words)
    assert not list(tmp_path.glob("out/*/*/*.jsonl")) and not list(tmp_path.glob("out/checked/*"))


def test_a_folder_is_checked_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    folder = make_folders(tmp_path / "data", ("train",), classes=1, each=2)
    files = data.image_folder(folder / "train")[0].images
    looked = []
    monkeypatch.setattr(data, "wrong_with", lambda file: looked.append(file))
    data.verify(files, tmp_path / "checked")
    data.verify(files, tmp_path / "checked")
    assert len(looked) == 2
    files[0].write_bytes(files[0].read_bytes() + b"!")
    data.verify(files, tmp_path / "checked")
    assert len(looked) == 4


def test_crops_are_random_in_training_and_the_middle_in_testing():
    recipe = recipes.load("cifar100", "resnet18", "sgdm", [])
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    picture = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(data.view(picture, recipe, None)), pixels)
    seen = {np.asarray(data.view(picture, recipe, np.random.default_rng([0, 0, i]))).tobytes() for i in range(40)}
    assert len(seen) > 30
    again = [data.view(picture, recipe, np.random.default_rng([0, 0, 3])).tobytes() for _ in range(2)]
    assert again[0] == again[1]
    for i in range(200):
        left, top, right, bottom = data.random_box(50, 20, np.random.default_rng(i))
        assert 0 <= left < right <= 50 and 0 <= top < bottom <= 20


def test_an_epoch_that_is_gone_on_with_has_the_batches_that_were_left(cifar):
    recipe = recipes.load("cifar100", "resnet18", "sgdm", ["batch=4"])
    train_set, test_set = data.cifar100(cifar)
    whole = list(data.batches(train_set, recipe, 3, 1))
    rest = list(data.batches(train_set, recipe, 3, 1, first=2))
    assert len(whole) == 4 and len(rest) == 2
    for (x, y), (x2, y2) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    assert torch.cat([y for _, y in whole]).sort().values.tolist() == sorted(train_set.labels)
    assert torch.cat([y for _, y in data.test_batches(test_set, recipe)]).tolist() == test_set.labels


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("batch=0", "batch must be at least 1"),
        ("batch='8'", "batch must be a int"),
        ("lr=nan", "lr must be a finite number"),
        ("weight_decay=-1e-4", "weight_decay must be a finite number"),
        ("bach=8", "unknown setting"),
        ("batch", "line of TOML"),
        ("norm='ln'", "bn, gn"),
        ("batch=17", "16 training images are less than a batch of 17"),
        ("crop=64", "smaller than the crop"),
    ],
)
def test_wrong_settings_are_named(line, word, cifar, tmp_path):
    refused(lambda: run("cifar100", cifar, tmp_path, line, variant="resnet18"), word)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(Wrong, match="--device 'nonsense' cannot be used here"):
        command.usable("nonsense")
    assert command.usable("cpu") == "cpu"


def test_wrong_names_are_named(cifar, tmp_path):
    refused(lambda: run("cifar10", cifar, tmp_path), "cifar10", "cifar100")
    refused(lambda: run("cifar100", cifar, tmp_path, variant="vit"), "vit", "resnet18")
    refused(lambda: run("cifar100", cifar, tmp_path, optimizer="lion"), "lion", "adagrad")
    refused(lambda: run("cifar100", cifar, tmp_path, gc="yes"), "--gc", "'yes'", "off")


# ---- The schedule, and going on


def test_the_learning_rate_falls_at_its_milestones(cifar, tmp_path):
    run("cifar100", cifar, tmp_path, "epochs=4", "milestones=[1, 3]", "gamma=0.5", "crop=8", variant="resnet18")
    (log,) = tmp_path.glob("*/*/log.jsonl")
    assert [json.loads(line)["lr"] for line in log.read_text().splitlines()] == [0.1, 0.05, 0.05, 0.025]


LONG = ["--variant", "resnet18", "--optimizer", "adam", "--every", "3"]
LONG_SETTINGS = ["width=16", "crop=8", "batch=2", "epochs=20"]


def ends(out):
    """Everything that a run leaves, without the time it took."""
    (folder,) = out.glob("cifar100/*")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    state = checkpoint.load(folder / "checkpoint.pt")
    log_size = state["at"].pop("log_size")
    assert log_size == (folder / "log.jsonl").stat().st_size
    return lines, state


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_one_that_was_not(cifar, tmp_path):
    """Killed after some of its checkpoints, in whatever it is doing then; KILLS=10 kills it more often."""
    options = [*LONG, "--data", str(cifar)]
    for line in LONG_SETTINGS:
        options += ["--set", line]
    once = [sys.executable, "-m", "examples.reproduce", "run", "cifar100", *options, "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*once, tmp_path / "whole"], env=env, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr

    file = tmp_path / "killed/cifar100/resnet18-adam-gc_gradient-seed0/checkpoint.pt"
    reached = []
    for _ in range(KILLS):
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = subprocess.Popen(
            [*once, tmp_path / "killed"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while process.poll() is None and not (file.exists() and file.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        reached.append(checkpoint.load(file)["at"]["step"])
    assert reached == sorted(reached) and reached[0] > 0
    done = subprocess.run([*once, tmp_path / "killed"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same(ends(tmp_path / "whole"), ends(tmp_path / "killed"))


def test_ctrl_c_says_how_to_go_on(cifar, tmp_path, monkeypatch, capsys):
    calls = iter(range(100))

    def loss(*args, **options):
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.nn.functional.cross_entropy(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(
            training, "cross_entropy", lambda *args, **options: loss(*args) if not options else 0 * args[0].sum()
        )
        with pytest.raises(typer.Exit) as stopped:
            run("cifar100", cifar, tmp_path / "killed", "crop=8", "epochs=3", variant="resnet18")
    assert stopped.value.exit_code == 130 and "goes on from the last checkpoint" in capsys.readouterr().err
    assert 0 < checkpoint.load(next(tmp_path.glob("killed/*/*/checkpoint.pt")))["at"]["step"] < 6


def test_same_finds_what_differs(cifar, tmp_path):
    for seed in (0, 1):
        run("cifar100", cifar, tmp_path / str(seed), "crop=8", variant="resnet18", seed=seed)
    assert same(ends(tmp_path / "0"), ends(tmp_path / "0"))
    assert not same(ends(tmp_path / "0"), ends(tmp_path / "1"))


def test_what_a_kill_leaves_behind_does_no_harm(cifar, tmp_path):
    """A checkpoint half written beside the whole one, and a log that is ahead of it."""
    run("cifar100", cifar, tmp_path / "whole", "crop=8", "epochs=2", variant="resnet18")
    run("cifar100", cifar, tmp_path / "killed", "crop=8", "epochs=2", variant="resnet18")
    (folder,) = (tmp_path / "killed").glob("cifar100/*")
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"epoch": 2, "train_l')
    (folder / "checkpoint.unfinished").write_bytes(b"half")
    run("cifar100", cifar, tmp_path / "killed", "crop=8", "epochs=2", variant="resnet18")
    assert same(ends(tmp_path / "whole"), ends(tmp_path / "killed"))


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(cifar, tmp_path):
    run("cifar100", cifar, tmp_path, "crop=8", variant="resnet18")
    refused(lambda: run("cifar100", cifar, tmp_path, "crop=8", "lr=0.2", variant="resnet18"), "another run", "recipe")
    (file,) = tmp_path.glob("*/*/checkpoint.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refused(lambda: run("cifar100", cifar, tmp_path, "crop=8", variant="resnet18"), "checkpoint.pt", "cannot be read")
    torch.save({"run": Hostile()}, file)
    refused(lambda: run("cifar100", cifar, tmp_path, "crop=8", variant="resnet18"), "cannot be read")
    assert not Hostile.ran


# ---- The table


def test_the_table_has_the_papers_numbers_beside_ones_own(tmp_path):
    numbers = {"off": [24.0, 24.4, 24.2], "gradient": [23.5, 23.7, 23.6]}
    for place, values in numbers.items():
        for seed, value in enumerate(values):
            folder = tmp_path / f"imagenet/r50-bn-sgdm-gc_{place}-seed{seed}"
            folder.mkdir(parents=True)
            about = {"variant": "r50-bn", "optimizer": "sgdm", "gc": place, "seed": seed}
            (folder / "result.json").write_text(json.dumps({**about, "last": {"top-1 error, %": value}}))
    text = io.StringIO()
    table.show(Console(file=text, width=100), "imagenet", tmp_path)
    rows = {line.split("  ")[0].strip(): line for line in text.getvalue().splitlines() if line.startswith("  ")}
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "r50-bn sgdm, paper 23.71 23.21" in lines
    # s = 0.2 and 0.1 of three values; t(0.975, 2) = 4.3027.
    assert "r50-bn sgdm, here 24.20 ± 0.50 (3) 23.60 ± 0.25 (3)" in lines
    # Differences −0.5, −0.7, −0.6.
    assert "with GC minus without, by seed -0.60 ± 0.25 (3)" in lines
    assert "r50-gn sgdm, paper 24.50 23.53" in lines, rows


# ---- COCO, with a script in the manner of torchvision's


SCRIPT = """
import argparse
import torch
from engine import evaluate, train_one_epoch

parser = argparse.ArgumentParser()
for name in ("data-path", "dataset", "model", "device", "output-dir", "weights-backbone", "resume"):
    parser.add_argument("--" + name)
for name in ("epochs", "batch-size"):
    parser.add_argument("--" + name, type=int)
for name in ("lr", "momentum", "weight-decay", "lr-gamma"):
    parser.add_argument("--" + name, type=float)
parser.add_argument("--lr-steps", type=int, nargs="+")
args = parser.parse_args()

model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ConvTranspose2d(4, 5, 2), torch.nn.Conv2d(5, 2, 1))
params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(params, lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=args.lr_steps, gamma=args.lr_gamma)
before = [p.detach().clone() for p in params]
for epoch in range(args.epochs):
    train_one_epoch(model, optimizer)
    schedule.step()
    evaluate(model)
after = [p.detach().clone() for p in params]
torch.save([before, after, optimizer.param_groups[0]["lr"]], args.output_dir + "/seen.pt")
"""
ENGINE = """
from types import SimpleNamespace
import torch

def train_one_epoch(model, optimizer):
    optimizer.zero_grad()
    (model(torch.rand(2, 3, 8, 8)) ** 2 + model(torch.rand(2, 3, 8, 8))).mean().backward()
    optimizer.step()

def evaluate(model):
    found = {"bbox": SimpleNamespace(stats=[0.25, 0.5]), "segm": SimpleNamespace(stats=[0.125])}
    return SimpleNamespace(coco_eval=found)
"""


def make_coco(folder):
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
        names = [f"{i:012}.jpg" for i in range(2)]
        for name in names:
            Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8)).save(folder / part / name)
        notes = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": []}
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(notes))
    return folder


@pytest.fixture
def reference(tmp_path):
    folder = made(tmp_path / "reference")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "engine.py").write_text(ENGINE)
    return folder


@pytest.mark.parametrize("place", ["gradient", "off"])
def test_a_reference_training_runs_with_our_sgd_and_the_models_plan(place, reference, tmp_path, capsys):
    own = torch.optim.SGD
    folder = make_coco(tmp_path / "coco")
    settings = ["epochs=4", "milestones=[2, 3]", "weight_decay=0.0"]
    command.run("coco", folder, variant="mask-r50", gc=place, reference=reference, settings=settings, out=tmp_path)
    assert torch.optim.SGD is own and "engine" not in sys.modules
    said = capsys.readouterr().out
    assert "ConvTranspose2d" in said and "mask-r50 sgdm, here" in said
    (result,) = tmp_path.glob("coco/*/result.json")
    assert json.loads(result.read_text())["last"] == {"box AP": 25.0, "mask AP": 12.5}
    before, after, lr = torch.load(result.parent / "seen.pt")
    assert lr == pytest.approx(0.02 * 0.01)
    moved = [(b - a).double() for a, b in zip(before, after, strict=True)]
    # Means of up to 27 float32 numbers below 1 that four steps have moved: a few roundings each.
    kept = [abs(moved[i].mean(axes)).max() < 1e-6 for i, axes in ((0, (1, 2, 3)), (2, (0, 2, 3)), (4, (1, 2, 3)))]
    assert all(kept) if place == "gradient" else not any(kept)


@pytest.mark.parametrize("how", ["notes", "image", "cut", "reference"])
def test_a_broken_coco_is_named(how, reference, tmp_path):
    folder = make_coco(tmp_path / "coco")
    image = folder / "val2017/000000000001.jpg"
    words = [image.name]
    match how:
        case "notes":
            (folder / "annotations/instances_val2017.json").write_text('{"images": [')
            words = ["instances_val2017.json cannot be read"]
        case "image":
            image.unlink()
        case "cut":
            image.write_bytes(image.read_bytes()[:300])
        case "reference":
            reference, words = tmp_path, ["--reference", "references/detection"]
    refused(lambda: command.run("coco", folder, reference=reference, out=tmp_path / "out"), *words)


def test_a_script_without_sgd_is_not_taken_for_trained(reference, tmp_path):
    (reference / "train.py").write_text("import engine; engine.evaluate(None)")
    folder = make_coco(tmp_path / "coco")
    refused(lambda: command.run("coco", folder, reference=reference, out=tmp_path / "out"), "made no torch.optim.SGD")


def test_the_owner_of_parameters_is_found_or_refused():
    model = torch.nn.Linear(2, 3)
    assert coco.owner(list(model.parameters())) is model
    assert coco.owner([{"params": [model.bias]}, {"params": [model.weight]}]) is model
    with pytest.raises(Wrong, match="no one module owns"):
        coco.owner([model.weight, torch.nn.Parameter(torch.zeros(1))])
