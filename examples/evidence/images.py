"""Training on images: what a seed draws, one loop, and what is measured on the way."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gc_torch as gct
from examples.evidence import measure, resnet
from examples.evidence.data import Pictures
from examples.evidence.settings import Images, Tuning

PAD = 4
MOMENTS = 10  # at which training is looked at, from the first step on
SOME = 500  # test images that are looked at while training; at its end it is all of them
TUNED = 5  # classes


class Task:
    """Images that are trained on, and how the network sees them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, raw: bool = False):
        self.images = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
        self.labels = torch.tensor(labels)
        scaled = images / np.float32(255)
        self.mean = np.zeros(3, np.float32) if raw else scaled.mean((0, 1, 2))
        self.std = np.ones(3, np.float32) if raw else scaled.std((0, 1, 2))

    def batch(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops of the padded images, mirrored half of the time."""
        size = self.images.shape[1] - 2 * PAD
        corners, mirrored = rng.integers(0, 2 * PAD + 1, (len(chosen), 2)), rng.random(len(chosen)) < 0.5
        crops = np.stack([
            self.images[i, top : top + size, left : left + size][:, :: -1 if flip else 1]
            for i, (top, left), flip in zip(chosen, corners, mirrored, strict=True)
        ])  # fmt: skip
        return self.seen(crops), self.labels[chosen]

    def seen(self, images: np.ndarray) -> Tensor:
        """uint8 (n, height, width, 3) -> standardized float32 (n, 3, height, width), channels last in memory."""
        return torch.from_numpy((images / np.float32(255) - self.mean) / self.std).permute(0, 3, 1, 2)

    @property
    def plain(self) -> np.ndarray:
        """The images as they are."""
        return self.images[:, PAD:-PAD, PAD:-PAD]


def draw(labels: np.ndarray, each: int, rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
    """Which images: the same number of each of these classes."""
    found = []
    for label in classes:
        own = np.flatnonzero(labels == label)
        if len(own) < each:
            raise ValueError(f"there must be {each} images of class {label}; the data has {len(own)}")
        found.append(rng.choice(own, each, replace=False))
    return np.concatenate(found)


def run(setting: Images, seed: int, data: Pictures) -> dict[str, Any]:
    """Train once."""
    rng = np.random.default_rng([seed, 0])
    classes = np.arange(10)
    chosen = draw(data.train_labels, setting.images // 10, rng, classes)
    task = Task(data.train[chosen], data.train_labels[chosen], raw=setting.pixels == "raw")
    model = resnet.seeded(seed, norm=setting.norm, standardized=setting.standardized, centred=setting.centred)
    some = slice(None, None, max(1, len(data.test) // SOME))
    watched = data.test[some], data.test_labels[some]
    found = fit(model, task, setting, seed, layers=setting.layers, watched=watched)
    found |= {f"train_{name}": value for name, value in scores(model, task, task.plain, task.labels).items()}
    found |= {f"test_{name}": value for name, value in scores(model, task, data.test, data.test_labels).items()}
    return found


def tune(setting: Tuning, seed: int, data: Pictures) -> dict[str, Any]:
    """Train on five classes without GC, unless the start is fresh; then on a few images of the other five."""
    rng = np.random.default_rng([seed, 0])
    classes = rng.permutation(10)
    old, new = classes[:TUNED], classes[TUNED:]
    model = resnet.seeded(seed, classes=TUNED, standardized=setting.standardized)
    before: dict[str, Any] = {}
    if setting.start == "trained":
        task = relabelled(data, draw(data.train_labels, setting.before_images // TUNED, rng, old), old)
        trained = resnet.seeded(seed, classes=TUNED)
        how = Images(images=setting.before_images, epochs=setting.before_epochs)
        before = {"before_train_loss": fit(trained, task, how, seed)["loss"][-1]}
        torch.manual_seed(seed + 1)
        trained.fc.reset_parameters()
        model.load_state_dict(trained.state_dict())
    # Its own generator: the images that are tuned on do not depend on what was before.
    task = relabelled(data, draw(data.train_labels, setting.shots, np.random.default_rng([seed, 3]), new), new)
    how = Images(
        images=setting.shots * TUNED, epochs=setting.epochs, lr=setting.lr, decay=setting.decay, batch=setting.batch,
        gc=setting.gc,
    )  # fmt: skip
    found = before | fit(model, task, how, seed + 10_000)
    of_new = np.flatnonzero(np.isin(data.test_labels, new))
    labels = np.argsort(new)[np.searchsorted(np.sort(new), data.test_labels[of_new])]
    found |= {f"train_{name}": value for name, value in scores(model, task, task.plain, task.labels).items()}
    found |= {f"test_{name}": value for name, value in scores(model, task, data.test[of_new], labels).items()}
    return found


def relabelled(data: Pictures, chosen: np.ndarray, classes: np.ndarray) -> Task:
    """These images, their labels counted from 0 in the order of classes."""
    place = np.full(10, -1)
    place[classes] = np.arange(len(classes))
    return Task(data.train[chosen], place[data.train_labels[chosen]])


def fit(
    model: nn.Module, task: Task, setting: Images, seed: int, layers: str = "all", watched: Any = None
) -> dict[str, Any]:
    """The loop. Returns the training loss of each epoch, and what was measured if there are images to watch."""
    optimizer = optimizer_of(model, setting, layers)
    whole = max(1, len(task.labels) // setting.batch)
    steps = setting.epochs * whole
    schedule = schedule_of(optimizer, setting, steps, whole)
    moments = {round(i * steps / MOMENTS) for i in range(MOMENTS)} if watched else set()
    seen = measure.Seen(model, optimizer.plan, setting.gc) if watched else None
    losses, step = [], 0
    for epoch in range(setting.epochs):
        rng = np.random.default_rng([seed, 2, epoch])
        order = rng.permutation(len(task.labels))
        total = 0.0
        for i in range(whole):
            x, y = task.batch(order[i * setting.batch : (i + 1) * setting.batch], rng)
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            if step in moments and seen:
                seen.look(step, x, y, scores(model, task, *watched))
            optimizer.step()
            schedule.step()
            total += loss.item()
            step += 1
        losses.append(total / whole)
    return {"loss": losses} | (seen.found if seen else {})


def optimizer_of(model: nn.Module, setting: Images, layers: str) -> Any:
    """SGD or AdamW with GC where the setting has it."""
    plan = gct.plan(model)
    word, _, name = layers.partition(" ")
    if word == "only":
        keep = f"{name}.weight"
        plan = plan.override({row.name: None for row in plan.rows if row.axes is not None and row.name != keep})
    elif word == "not":
        plan = plan.override({f"{name}.weight": None})
    gc_on = None if setting.gc == "off" else setting.gc
    common: dict[str, Any] = dict(lr=setting.lr, weight_decay=setting.decay, gc_on=gc_on, plan=plan)
    if setting.rule == "SGD":
        return gct.SGD(model, momentum=0.9, **common)
    return gct.AdamW(model, **common)


def schedule_of(optimizer: Any, setting: Images, steps: int, whole: int) -> Any:
    """Divided by ten after 30, 60 and 90 % of the epochs; or one cycle."""
    if setting.schedule == "cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, setting.lr, total_steps=steps + 1, cycle_momentum=False)
    falls = [round(share * setting.epochs) * whole for share in (0.3, 0.6, 0.9)]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.1)


@torch.no_grad()
def scores(model: nn.Module, task: Task, images: np.ndarray, labels: Any) -> dict[str, float]:
    """Share of right answers and mean cross-entropy, in evaluation mode."""
    was, labels = model.training, torch.tensor(np.asarray(labels))
    model.eval()
    right, loss = 0, 0.0
    for start in range(0, len(images), 500):
        outputs = model(task.seen(images[start : start + 500]))
        wanted = labels[start : start + 500]
        right += int((outputs.argmax(1) == wanted).sum())
        loss += float(cross_entropy(outputs, wanted, reduction="sum"))
    model.train(was)
    return {"accuracy": right / len(labels), "loss": loss / len(labels)}
