"""All of examples.evidence on tiny data of the same formats: loaders, runs, resuming, Ctrl-C, answers and page."""

import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from examples.evidence import __main__ as command
from examples.evidence import answers, data, figures, images, page, questions, resnet, results, runner, text
from examples.evidence.answers import Reply, Runs, Verdict
from examples.evidence.questions import Block, with_gc
from examples.evidence.settings import Cell, Images, Text, Tuning

DOCS = Path(__file__).parents[2] / "docs"
TINY = Images(images=40, epochs=1, batch=20)
TINY_TEXT = Text(steps=6, batch=4, context=16, layers=1, width=16, heads=2)
TRAIN, TEST = 6, 2  # images of each class


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CIFAR-10's folders of JPEG files, and a text."""
    place, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for number, name in enumerate(data.CLASSES):
            (place / "cifar" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8) // 2 + 12 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"cifar/{part}/{name}/{i:04}.jpg", quality=75)
    (place / "input.txt").write_text("To be, or not to be: that is the question. É.\n" * 60, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def pictures(folder, tmp_path_factory):
    return data.pictures(folder, tmp_path_factory.mktemp("cache"))


def write_binary(place, pictures):
    """CIFAR-10's binary version: a label, then the planes of red, green and blue."""
    place.mkdir(exist_ok=True)
    parts = {"test_batch.bin": (pictures.test, pictures.test_labels)}
    for i in range(5):
        parts[f"data_batch_{i + 1}.bin"] = (pictures.train[i::5], pictures.train_labels[i::5])
    for name, (pixels, labels) in parts.items():
        records = [
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(pixels, labels, strict=True)
        ]
        (place / name).write_bytes(b"".join(records))


# ---- Data


def test_jpeg_folders_are_what_pillow_decodes(folder, pictures):
    assert pictures.train.shape == (10 * TRAIN, 32, 32, 3) and pictures.test.shape == (10 * TEST, 32, 32, 3)
    assert pictures.train_labels.tolist() == [label for label in range(10) for _ in range(TRAIN)]
    for label, name in enumerate(data.CLASSES):
        with Image.open(folder / f"cifar/test/{name}/0001.jpg") as image:
            np.testing.assert_array_equal(pictures.test[label * TEST + 1], np.asarray(image))
    assert "JPEG, 60 train and 20 test, sha256 " in pictures.about


def test_the_binary_version_is_the_same_images(pictures, tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin", pictures)
    found = data.pictures(tmp_path, tmp_path / "cache")
    order = [i for k in range(5) for i in range(k, 10 * TRAIN, 5)]
    np.testing.assert_array_equal(found.train, pictures.train[order])
    np.testing.assert_array_equal(found.train_labels, pictures.train_labels[order])
    np.testing.assert_array_equal(found.test, pictures.test)
    assert "binary" in found.about


def test_images_are_decoded_once_and_again_when_a_file_changes(folder, tmp_path, monkeypatch):
    data.pictures(folder, tmp_path)
    monkeypatch.setattr(data, "read_jpegs", lambda paths: pytest.fail("decoded again"))
    data.pictures(folder, tmp_path)
    monkeypatch.undo()
    one = folder / "cifar/test/ship/0000.jpg"
    before = one.stat()
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    monkeypatch.setattr(data, "read_jpegs", lambda paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.pictures(folder, tmp_path)


def spoil_class(place):
    (place / "train/cat").rename(place / "train/lion")


def spoil_jpeg(place):
    file = place / "train/dog/0003.jpg"
    file.write_bytes(file.read_bytes()[:300])


def spoil_size(place):
    Image.new("RGB", (16, 32)).save(place / "train/dog/0003.jpg")


def spoil_empty(place):
    for file in (place / "test/frog").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_class, r"train lacks cat\. It must hold CIFAR-10"),
        (spoil_jpeg, r"train/dog/0003\.jpg must be a JPEG of 32×32 pixels"),
        (spoil_size, r"0003\.jpg must be .* 16×32 pixels"),
        (spoil_empty, r"the test images have none of frog"),
    ],
)
def test_spoilt_folders_are_told(folder, tmp_path, spoil, says):
    shutil.copytree(folder / "cifar", tmp_path / "cifar")
    spoil(tmp_path / "cifar")
    with pytest.raises(data.Wrong, match=says):
        data.pictures(tmp_path, tmp_path / "cache")


def test_spoilt_binary_files_are_told(pictures, tmp_path):
    write_binary(tmp_path, pictures)
    file = tmp_path / "data_batch_2.bin"
    whole = file.read_bytes()
    for content, says in ((whole[:-1], r"data_batch_2\.bin must hold records of 3,073 bytes"), (b"", "it has 0 bytes"),
                          (b"\x0b" + whole[1:], "has the label 11")):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(data.Wrong, match=says):
            data.pictures(tmp_path, tmp_path / "cache")
    file.unlink()
    with pytest.raises(data.Wrong, match=r"lacks data_batch_2\.bin"):
        data.pictures(tmp_path, tmp_path / "cache")


def test_texts(folder, tmp_path):
    found = data.letters(folder)
    whole = (folder / "input.txt").read_text(encoding="utf-8")
    numbers = np.concatenate([found.train, found.test])
    assert "".join(found.alphabet[i] for i in numbers) == whole and len(found.test) == len(whole) - len(whole) * 9 // 10
    for content, says in ((b"\xff\xfe" * 900, "byte 0 is 0xff"), (b"short", "has 5 characters")):
        (tmp_path / "input.txt").write_bytes(content)
        with pytest.raises(data.Wrong, match=says):
            data.letters(tmp_path)
    for missing in (tmp_path / "nowhere", tmp_path / "input.txt"):
        with pytest.raises(data.Wrong, match="is not a folder"):
            data.load("images", missing, tmp_path)
    (tmp_path / "input.txt").unlink()
    with pytest.raises(data.Wrong, match=r"holds no input\.txt\. .*tinyshakespeare"):
        data.letters(tmp_path)
    with pytest.raises(data.Wrong, match=r"holds no images\. It must hold CIFAR-10"):
        data.pictures(tmp_path, tmp_path / "cache")


# ---- Models and runs


def test_inputs_centred_by_hand_are_patches_less_their_mean():
    torch.manual_seed(0)
    conv = resnet.CentredConv2d(3, 5, 3, 2, 1, dtype=torch.float64)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    patches = torch.nn.functional.unfold(x, 3, padding=1, stride=2)  # (n, 27, positions)
    centred = patches - patches.mean(1, keepdim=True)
    by_hand = conv.weight.view(5, 27) @ centred + conv.bias[:, None]
    found = conv(x).flatten(2)
    # Sums of 27 products below 10, in another order: 27 · 10 · 2⁻⁵³ and a few times that.
    assert (found - by_hand).abs().max() < 1e-12
    (grad,) = torch.autograd.grad(found.square().sum(), conv.weight)
    assert grad.mean((1, 2, 3)).abs().max() < 1e-11 < grad.abs().max()


@pytest.mark.parametrize(
    ("more", "conserved"),
    [
        ({}, resnet.LAYERS),
        ({"norm": "group", "standardized": True}, resnet.LAYERS),
        ({"norm": "none", "pixels": "raw", "schedule": "cycle"}, resnet.LAYERS),
        ({"layers": "only stage2.conv1"}, ("stage2.conv1",)),
        ({"layers": "not fc"}, resnet.LAYERS[:-1]),
        ({"rule": "AdamW"}, ()),
    ],
    ids=str,
)
def test_pairs_differ_in_gc_alone(pictures, more, conserved):
    """Both sides see the same first batch with the same weights; then they part, and GC keeps means where it is."""
    torch.set_num_threads(1)
    plain = replace(TINY, **more)
    off, on = (images.run(setting, 1, pictures) for setting in (plain, with_gc(plain)))
    assert off["watched_loss"][0] == on["watched_loss"][0] and off["gradient_norm"][0] == on["gradient_norm"][0]
    assert off["test_loss"] != on["test_loss"]
    # A step of 0.1 times a mean gradient moves means by 1e-5 or more; rounding is that of numbers below 1 in float32.
    if not plain.standardized:  # whose gradients have no mean
        assert {name for name, moved in on["drift"].items() if moved[-1] < 1e-7} == set(conserved)
    assert all(moved[-1] < 1e-7 for name, moved in on["drift"].items() if name in conserved)


def test_a_run_can_be_repeated_bit_for_bit(pictures):
    torch.set_num_threads(1)
    first = images.run(TINY, 1, pictures)
    assert json.dumps(images.run(TINY, 1, pictures)) == json.dumps(first)
    assert images.run(TINY, 2, pictures)["loss"] != first["loss"]


def test_centred_inputs_leave_gc_nothing_to_do(pictures):
    plain = replace(TINY, centred=True)
    off, on = (images.run(setting, 1, pictures) for setting in (plain, with_gc(plain)))
    assert max(max(share) for share in off["share"].values()) < 1e-10
    assert on["loss"] == pytest.approx(off["loss"], rel=1e-5)


def test_looking_changes_nothing(pictures):
    """A run that is not watched takes the same steps."""
    chosen = images.draw(pictures.train_labels, 4, np.random.default_rng([1, 0]), np.arange(10))
    task = images.Task(pictures.train[chosen], pictures.train_labels[chosen])
    blind = images.fit(resnet.seeded(1), task, with_gc(TINY), 1)
    assert blind["loss"] == images.run(with_gc(TINY), 1, pictures)["loss"]


def test_smoothness_is_of_the_loss_along_the_gradient(pictures):
    """The shortest step along the gradient lowers the loss by about η‖g‖²."""
    found = images.run(TINY, 0, pictures)
    assert len(found["along"][0]) == 4 and found["along"][0][0] < 0
    assert found["used_norm"][0] >= found["gradient_norm"][0]


def test_tuning_has_classes_of_its_own(pictures):
    setting = Tuning(shots=3, epochs=2, batch=15, before_images=20, before_epochs=1)
    trained, fresh = images.tune(setting, 0, pictures), images.tune(replace(setting, start="fresh"), 0, pictures)
    assert "before_train_loss" in trained and "before_train_loss" not in fresh
    assert 0 <= trained["test_accuracy"] <= 1 and len(trained["loss"]) == 2
    assert images.tune(replace(setting, standardized=True), 0, pictures)["loss"] != trained["loss"]


def test_embeddings_are_centralized_where_the_setting_says_so():
    model = text.Transformer(20, 16, 1, 16, 2)
    for embeddings, axes in ((False, None), (True, (1,))):
        plan = text.optimizer_of(model, replace(TINY_TEXT, gc="update", embeddings=embeddings)).plan
        assert plan["letter.weight"].axes == plan["position.weight"].axes == axes and plan["head.weight"].axes == (1,)


def test_text_runs(folder):
    letters = data.letters(folder)
    off, on, update, more = (
        text.run(setting, 0, letters)
        for setting in (
            TINY_TEXT, with_gc(TINY_TEXT), with_gc(TINY_TEXT, "update"), with_gc(TINY_TEXT, "update", embeddings=True)
        )
    )  # fmt: skip
    assert len({one["watched_bits"][0] for one in (off, on, update, more)}) == 1
    assert len({one["test_bits"] for one in (off, on, update)}) == 3
    # All that reads an embedding is behind a layer normalization, which does not see its mean: float32's rounding.
    assert more["test_bits"] == pytest.approx(update["test_bits"], rel=1e-6)
    # Behind a layer normalization whose scale is 1 and shift 0, inputs have no mean: float32's rounding is left.
    assert max(off["share"]["layers.0.qkv"][0], off["share"]["head"][0]) < 1e-12 < off["share"]["layers.0.down"][0]


# ---- The command


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """The command on two tiny runs, with a cache of its own."""
    blocks = [Block(1, [TINY], 1), Block(5, [TINY_TEXT], 1)]
    monkeypatch.setattr(questions, "BLOCKS", blocks)
    monkeypatch.setattr(command, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runner, "NICE", 0)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}

    def run(only="", cells=None, place=folder, jobs=2):
        command.evidence(place, only, cells, 1, jobs, tmp_path)

    yield run
    for one, handler in handlers.items():
        signal.signal(one, handler)


def keys(folder):
    return list(results.read(folder))


def test_whole(run, tmp_path, pictures, capsys):
    """A part, Ctrl-C, the rest, the page; and the same again, bit for bit."""
    run(cells=1)
    assert keys(tmp_path / "results") == ["images images=40 epochs=1 batch=20 seed=0"]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(typer.Exit) as stopped:
        run()
    assert stopped.value.exit_code == 130 and "the same command goes on" in capsys.readouterr().err
    first = (tmp_path / "results/images.jsonl").read_text()
    (tmp_path / "results/text.jsonl").write_text('{"kind": "text", "set')  # a machine died here
    run()
    assert len(keys(tmp_path / "results")) == 2
    assert (tmp_path / "results/images.jsonl").read_text() == first
    assert "2 of 2" in " ".join((tmp_path / "results.md").read_text().split())
    spent = results.spent(tmp_path / "results")
    assert len(spent) == 2 and all(one["core_seconds"] > 0 for one in spent)
    line = json.loads(first)
    assert line["about"]["threads"] == 1 and "sha256" in line["about"]["data"]
    assert line["about"]["versions"]["torch"] == version("torch")
    torch.set_num_threads(1)
    assert line["found"] == json.loads(json.dumps(results.rounded(images.run(TINY, 0, pictures))))


def test_what_cannot_be_run_is_told(run, tmp_path, capsys, monkeypatch):
    for wrong in ({"only": "7"}, {"only": "one"}, {"place": tmp_path / "nowhere"}):
        with pytest.raises(typer.Exit) as failed:
            run(**wrong)
        assert failed.value.exit_code == 2
    said = capsys.readouterr().err
    assert "--only must be numbers of questions" in said and "is not a folder" in said
    with runner.alone(tmp_path / "cache"), pytest.raises(typer.Exit):
        run()
    assert "another command is running cells" in capsys.readouterr().err
    monkeypatch.setattr(runner, "CELL", "examples.evidence.nothing")
    with pytest.raises(typer.Exit):
        run(only="1")
    said = capsys.readouterr().err
    assert "the cell `images images=40 epochs=1 batch=20 seed=0` failed: " in said and "No module named" in said
    assert not keys(tmp_path / "results")


def test_a_busy_machine_is_given_one_run_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for load, jobs in ((0.1, 8), (5.2, 3), (7.9, 1), (40.0, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert runner.free_cores() == jobs


def test_too_few_images_are_told(pictures):
    with pytest.raises(ValueError, match="there must be 400 images of class 0; the data has 6"):
        images.run(replace(TINY, images=4000), 0, pictures)


# ---- Questions, answers, page


def test_cells_are_named_once_and_for_all():
    cells = questions.cells()
    assert len({cell.key for cell in cells}) == len(cells)
    assert all(Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell for cell in cells)
    assert Cell(Images(), 3).key == "images seed=3" and Cell(Text(gc="update"), 0).key == "text gc=update seed=0"


def test_the_count_of_comparisons_is_that_of_the_questions():
    asked = (DOCS / "questions.md").read_text()
    for question, answer in answers.ALL.items():
        part = asked.split(f"\n## {question}. ")[1].split("\n## ")[0]
        assert int(re.search(r"k = (\d+)", part)[1]) == answers.COUNTED[question] == len(answer(Runs({})))
        for found in answer(Runs({})):
            assert found.verdict is Verdict.FEW and f"{found.planned} seeds" in " ".join(part.split())


def test_every_comparison_is_planned():
    planned = {cell.key for cell in questions.cells()}

    class Asked(Runs):
        def found(self, setting, seed):
            assert Cell(setting, seed).key in planned
            asked.add(Cell(setting, seed).key)

    asked = set()
    for answer in answers.ALL.values():
        answer(Asked({}))
    answers.share_says(Asked({}))
    assert len(asked) > 0.7 * len(planned)


def line(setting, seed, accuracy, **more):
    found = {"test_accuracy": accuracy, "test_loss": 1.0, **more}
    return {Cell(setting, seed).key: {**Cell(setting, seed).to_dict(), "found": found}}


def test_verdicts_follow_from_intervals():
    def verdict(by_seed, **more):
        return answers.judge("", by_seed, 8, 5, **more)

    assert verdict([2.0, 2.1, 1.9, 2.0]).verdict is Verdict.BETTER
    assert verdict([2.0, 2.1, 1.9, 2.0], lower_is_better=True).verdict is Verdict.WORSE
    assert verdict([0.1, -0.1, 0.0, 0.1]).verdict is Verdict.LITTLE
    assert verdict([3.0, -1.0, 2.0, 4.0]).verdict is Verdict.NOT_SHOWN
    assert verdict([2.0, 2.1]).verdict is Verdict.FEW
    # Four comparisons at 95 % together, and Student's distribution with 3 degrees of freedom, written out.
    quantile = verdict([1.0, 2.0, 3.0, 4.0]).interval.half_width / np.sqrt(5 / 3) * 2
    t = quantile / np.sqrt(3)
    assert 0.5 + (t / (1 + t * t) + np.arctan(t)) / np.pi == pytest.approx(1 - 0.05 / 4 / 2, abs=1e-9)
    of = {verdict: answers.Answer("", [], 8, None, verdict) for verdict in Verdict}
    assert answers.reply([of[Verdict.BETTER], of[Verdict.WORSE]]) is Reply.YES
    assert answers.reply([of[Verdict.LITTLE], of[Verdict.WORSE]]) is Reply.NO
    assert answers.reply([of[Verdict.LITTLE], of[Verdict.FEW]]) is Reply.NOT_SHOWN
    assert answers.reply([of[Verdict.FEW]] * 2) is Reply.FEW


def test_differences_are_those_of_pairs_alone():
    plain, gc = Images(), with_gc(Images())
    lines = line(plain, 0, 0.5) | line(gc, 0, 0.6) | line(plain, 1, 0.5) | line(gc, 2, 0.9)
    assert Runs(lines).differences(plain, gc, 8) == pytest.approx([10.0])


def test_own_best_is_chosen_by_the_other_seeds():
    one, two = Images(lr=0.01), Images(lr=0.3)
    table = {(one, 0): 0.9, (one, 1): 0.3, (one, 2): 0.2, (two, 0): 0.4, (two, 1): 0.5, (two, 2): 0.5}
    lines = {key: value for (setting, seed), a in table.items() for key, value in line(setting, seed, a).items()}
    found = answers.at_own_best(Runs(lines), [one, two], "off", 3)
    assert found == pytest.approx({0: 40.0, 1: 30.0, 2: 20.0})
    lines |= line(two, 1, 0.1)
    assert answers.collapses(Runs(lines), [one, two], "off", 3) == {0: 0.0, 1: 50.0, 2: 0.0}


@pytest.fixture(scope="module")
def invented():
    """Lines of all planned runs with numbers that are drawn."""
    rng, lines = np.random.default_rng(0), {}
    moments, layers = list(range(10)), resnet.LAYERS
    for cell in questions.cells():
        wave = {name: rng.random(10).tolist() for name in layers}
        gain = 0.0 if cell.setting.gc == "off" else 0.05
        curves = {
            name: rng.random(10).tolist() for name in ("gradient_norm", "gradient_largest", "used_norm", "watched_bits")
        }
        epochs = getattr(cell.setting, "epochs", 1)
        accuracy = 0.5 + gain + 0.01 * rng.random()
        found = {"loss": rng.random(epochs).tolist(), "moments": moments, "share": wave,
                 "drift": wave, "along": rng.random((10, 4)).tolist(), "test_accuracy": accuracy,
                 "test_loss": None, "test_bits": 2 - 0.4 * gain + 0.001 * rng.random(), "train_accuracy": 0.6,
                 "train_loss": 1.0, **curves}  # fmt: skip
        about = {"data": "d", "machine": "m", "threads": 1, "versions": {"torch": "2"}}
        lines[cell.key] = {**cell.to_dict(), "found": found, "about": about}
    return lines


def test_pictures_show_every_seed(invented):
    for question, answer in answers.ALL.items():
        figure = figures.compose(question, Runs(invented))
        dots = [
            x for panel in figure.axes for dots in panel.collections
            if hasattr(dots, "get_sizes") and len(dots.get_offsets()) and len(dots.get_sizes())
            for x in np.asarray(dots.get_offsets())[:, 0]
        ]  # fmt: skip
        wanted = [value for one in answer(Runs(invented)) for value in one.by_seed]
        assert set(np.round(wanted, 9)) <= set(np.round(dots, 9)), question


def test_the_page_says_what_its_lines_say(invented, tmp_path):
    spent = [{"cell": key, "core_seconds": 36.0} for key in invented]
    whole = page.text(invented, spent, [1])
    assert "Every planned run is done." in whole and "pictures/evidence-1.png" in whole and "evidence-2" not in whole
    assert "Faster: yes. Better at the end: yes." in whole and "too few" not in whole
    assert f"{len(invented) / 100:.1f} core hours" in whole
    worse = {
        key: {**one, "found": {**one["found"], "test_accuracy": 1 - one["found"]["test_accuracy"]}}
        for key, one in invented.items()
    }
    assert "Faster: no. Better at the end: no." in page.text(worse, spent, [])
    some = {key: one for key, one in invented.items() if one["seed"] < 2}
    assert "Faster: too few runs to say." in page.text(some, spent, []) and "2 of 8 seeds" in page.text(some, spent, [])
    page.write({}, [], tmp_path)
    assert "Not run yet" in (tmp_path / "results.md").read_text() and not list((tmp_path / "pictures").iterdir())


def test_the_readme_has_the_lines_in_short(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nafter\n")
    page.write_short({}, readme)
    assert readme.read_text() == f"before\n{page.MARKS[0]}\n{page.in_short(Runs({}))}\n{page.MARKS[1]}\nafter\n"
    whole = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    if page.MARKS[0] in whole:
        assert whole == page.with_short(whole, Runs(results.read(DOCS / "results")))


def test_the_page_of_the_docs_is_that_of_the_lines():
    lines, spent = results.read(DOCS / "results"), results.spent(DOCS / "results")
    drawn = {q for q in page.TITLES if (DOCS / f"pictures/evidence-{q}.png").is_file()}
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page.text(lines, spent, drawn)
    assert drawn == {q for q in page.TITLES if figures.wanted(q, Runs(lines))}
    assert {one["cell"] for one in spent} == set(lines)
