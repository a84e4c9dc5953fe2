"""Detection as a task: what the losses see, what is made of outputs, what a person is shown, what training finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from law_cases import each
from torch import Tensor

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.errors import UserError
from lossbench.losses import REGISTRY, LossContext
from lossbench.losses import build as build_loss
from lossbench.models.base import build
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks.detection import Detection
from lossbench.tasks.matching import mistakes
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.population import train_population
from lossbench.training.prediction import predicting
from lossbench.training.setting import Setting, loss_context, prepare

SIDE, STRIDE = 32, 4
NETWORK = {"name": "grid_detector", "width": 8, "stride": STRIDE, "levels": 2}
CLASSES = ("square", "frame")


def info(**more: Any) -> DatasetInfo:
    known: dict[str, Any] = {
        "kind": "boxes", "classes": CLASSES, "input_shape": (1, SIDE, SIDE), "target_shape": (2, 5),
        "mean": (0.3,), "std": (0.2,), "counts": (30, 20), "sizes": {"train": 40},
    }  # fmt: skip
    return DatasetInfo(**{**known, **more})


def scene(*shapes: tuple[int, int, int, int], rng: np.random.Generator | None = None) -> np.ndarray:
    """(1, 32, 32): bright squares (class 0) and frames (class 1), each (class, x, y, side), on noise."""
    random = rng or np.random.default_rng(0)
    image = random.integers(20, 90, (SIDE, SIDE))
    for label, x, y, side in shapes:
        image[y : y + side, x : x + side] = 220
        if label:
            image[y + 2 : y + side - 2, x + 2 : x + side - 2] = 60
    return image.astype(np.uint8)[None]


def shapes_dataset(folder: Path, train: int = 240, validation: int = 60) -> Dataset:
    """One or two shapes a scene."""
    rng = np.random.default_rng(7)
    counts = [0, 0]
    for split, count in (("train", train), ("validation", validation), ("test", 60)):
        images, targets = [], np.full((count, 2, 5), -1, np.float32)
        for index in range(count):
            shapes = [
                (int(rng.integers(2)), int(rng.integers(low, low + 5)), int(rng.integers(0, 22)), side)
                for low, side in ((0, int(rng.integers(7, 11))), (16, int(rng.integers(7, 11))))
            ][: rng.integers(1, 3)]
            images.append(scene(*shapes, rng=rng))
            for place, (label, x, y, side) in enumerate(shapes):
                targets[index, place] = x, y, x + side, y + side, label
                counts[label] += split == "train"
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "inputs.npy", np.stack(images))
        np.save(folder / split / "targets.npy", targets)
    sizes = {"train": train, "validation": validation, "test": 60, "reference": 0}
    info(counts=tuple(counts), sizes=sizes).write(folder)
    return Dataset.open(folder)


def setting(data: Dataset, loss: dict[str, Any], compute: Compute | None = None, **recipe: Any) -> Setting:
    known = {"epochs": 6, "batch_size": 16, "optimizer": {"name": "adam", "learning_rate": 0.01}, **recipe}
    task = Detection(data.info, {"stride": STRIDE})
    return prepare(task, data, Network(**NETWORK), Recipe(**known), loss, compute or Compute())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shapes_dataset(tmp_path_factory.mktemp("shapes") / "data")


class Trained:
    """A trained detector, asked for the boxes of images."""

    def __init__(self, data: Dataset, loss: dict[str, Any]) -> None:
        self.setting = setting(data, loss, schedule={"name": "cosine"})
        self.task = self.setting.task
        self.replicate = train_replicate(self.setting, Member(0))

    def find(self, images: np.ndarray) -> np.ndarray:
        network, state = Network(**NETWORK), self.replicate.state
        with predicting(self.task, network, state, images, Compute()) as predictor:
            encoded = self.task.encode_inputs(torch.from_numpy(images.copy()))
            digests = self.task.digest(predictor.forward(encoded), torch.empty(0), encoded)
        return self.task.decide(digests.numpy())


@pytest.fixture(scope="module")
def trained(shapes: Dataset) -> Trained:
    return Trained(shapes, {"name": "cross_entropy"})


def boxes(found: np.ndarray) -> np.ndarray:
    return found[found[:, 4] >= 0]


def truth(*shapes: tuple[int, int, int, int]) -> np.ndarray:
    return np.array([[x, y, x + side, y + side, label] for label, x, y, side in shapes], np.float32)


def test_training_finds_shapes_it_has_not_seen(shapes: Dataset, trained: Trained) -> None:
    test = shapes.split("test")
    found = trained.find(np.asarray(test.inputs))
    assert trained.task.score(found, np.asarray(test.targets)).metrics["map50"] > 0.8


def test_an_image_without_shapes_has_no_boxes(trained: Trained) -> None:
    assert len(boxes(trained.find(scene()[None])[0])) == 0


def test_a_shape_moved_by_cells_moves_its_box(trained: Trained) -> None:
    first, moved = (0, 6, 8, 9), (0, 6 + 2 * STRIDE, 8 + STRIDE, 9)
    before, after = trained.find(np.stack([scene(first), scene(moved)]))
    assert mistakes(before, truth(first)) == mistakes(after, truth(moved)) == (0, 0)
    shift = boxes(after)[0, :4] - boxes(before)[0, :4]
    np.testing.assert_allclose(shift, [2 * STRIDE, STRIDE] * 2, atol=1.5)


def test_a_second_shape_adds_a_box_and_leaves_the_first(trained: Trained) -> None:
    first, second = (0, 3, 4, 9), (1, 19, 18, 9)
    one, two = trained.find(np.stack([scene(first), scene(first, second)]))
    assert mistakes(one, truth(first)) == (0, 0)
    assert mistakes(two, truth(first, second)) == (0, 0)


def test_a_square_with_a_hole_becomes_a_frame(trained: Trained) -> None:
    square, frame = trained.find(np.stack([scene((0, 12, 12, 9)), scene((1, 12, 12, 9))]))
    assert boxes(square)[:, 4].tolist() == [0]
    assert boxes(frame)[:, 4].tolist() == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        {"name": "focal", "gamma": 2.0},
        {"name": "dice", "over": "batch"},
        {"name": "hinge"},
        {"name": "cross_entropy", "class_weights": "balanced"},
        {"sum": {"cross_entropy": 1.0, "dice": {"weight": 1.0, "over": "batch"}}},
    ],
    ids=str,
)
def test_every_kind_of_loss_trains_the_detector(loss: dict[str, Any], shapes: Dataset) -> None:
    told: list[dict[str, float]] = []
    made = setting(shapes, loss, schedule={"name": "cosine"})
    replicate = train_replicate(made, Member(0), lambda values: told.append(values[1]))
    assert not replicate.diverged
    assert told[-1]["train/loss"] < told[0]["train/loss"]
    assert told[-1]["validation/map50"] > 0.3
    assert told[-1]["validation/map50"] > told[0]["validation/map50"]


def random_outputs(task: Detection, images: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, task.outputs, *task.grid.size, generator=generator)


def some_targets() -> Tensor:
    first, second = truth((0, 2, 2, 8), (1, 20, 18, 9)), truth((1, 9, 9, 12), (0, 0, 0, 1))
    second[1] = [0, 0, 0, 0, -1]
    return torch.from_numpy(np.stack([first, second]))


def test_the_compared_loss_sees_class_scores_of_cells_and_nothing_else() -> None:
    task = Detection(info(), {"box_weight": 0.25})
    outputs, targets = random_outputs(task), some_targets()
    seen: list[Tensor] = []

    def spy(scores: Tensor, labels: Tensor) -> Tensor:
        seen.extend([scores, labels])
        return torch.tensor(3.0)

    value = task.objective(spy, outputs, targets, torch.empty(0))  # type: ignore[arg-type]  # a function in a loss's place
    assert torch.equal(seen[0], outputs[:, :3])
    assert torch.equal(seen[1], task.loss_target(targets))
    assert (seen[1] > 0).sum() == 3
    assert value > 3
    more = Detection(info(), {"box_weight": 0.5}).objective(spy, outputs, targets, torch.empty(0))  # type: ignore[arg-type]  # likewise
    torch.testing.assert_close(more - 3, 2 * (value - 3))


@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
def test_the_box_loss_is_zero_for_the_true_boxes_and_ignores_background(box_loss: str) -> None:
    task = Detection(info(), {"box_loss": box_loss})
    targets = some_targets()
    assigned = task.grid.assign(targets, 0)
    outputs = torch.randn(2, task.outputs, *task.grid.size)
    stated = task.grid.encode(assigned.boxes)
    holds = (assigned.labels > 0)[:, None]
    outputs[:, 3:] = torch.where(holds, stated, outputs[:, 3:])

    def nothing(scores: Tensor, labels: Tensor) -> Tensor:
        return scores.sum() * 0

    assert task.objective(nothing, outputs, targets, torch.empty(0)).item() == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]  # a function in a loss's place
    outputs[:, 3:] += holds * 0.5
    assert task.objective(nothing, outputs, targets, torch.empty(0)).item() > 1e-3  # type: ignore[arg-type]  # likewise


def test_images_without_boxes_have_a_loss_and_a_gradient() -> None:
    task = Detection(info())
    outputs = random_outputs(task).requires_grad_()
    empty = torch.full((2, 1, 5), -1.0)
    loss = build_loss({"name": "cross_entropy"}, loss_context(task))
    value = task.objective(loss, outputs, empty, torch.empty(0))
    value.backward()  # type: ignore[no-untyped-call]  # torch's own
    assert torch.isfinite(value)
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


@each("name", sorted(name for name, loss in REGISTRY.items() if loss.single and not loss.only_in_sum))
def test_every_loss_of_one_class_per_position_fits(name: str) -> None:
    task = Detection(info())
    context: LossContext = loss_context(task)
    assert context.classes == 3
    loss = build_loss({"name": name}, context)
    outputs, targets = random_outputs(task).requires_grad_(), some_targets()
    auxiliary = {"auxiliary": loss.prepare(task.loss_target(targets), 3)} if loss.auxiliary else {}
    value = task.objective(loss, outputs, targets, torch.empty(0), **auxiliary)
    value.backward()  # type: ignore[no-untyped-call]  # torch's own
    assert value.ndim == 0
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


def test_class_counts_are_cells_and_exact_where_centres_are_apart(shapes: Dataset) -> None:
    task = Detection(shapes.info, {"stride": STRIDE})
    labels = task.loss_target(torch.from_numpy(np.array(shapes.split("train").targets)))
    assert task.class_counts == tuple(torch.bincount(labels.flatten(), minlength=3).tolist())
    wide = Detection(shapes.info, {"stride": STRIDE, "radius": 1})
    assert sum(wide.class_counts) == 240 * 64
    assert wide.class_counts[1] == 9 * task.class_counts[1]


def test_outputs_that_state_the_truth_are_detected_as_the_truth() -> None:
    task, targets = Detection(info()), some_targets()
    digests = task.digest(perfect(task, targets), targets, torch.empty(0))
    assert task.validate(digests, targets)["map50"] == pytest.approx(1)
    decided = task.decide(digests.numpy())
    for found, true in zip(decided, targets.numpy(), strict=True):
        assert mistakes(found, true) == (0, 0)


def perfect(task: Detection, targets: Tensor) -> Tensor:
    """Outputs that state the truth, and nothing else."""
    assigned = task.grid.assign(targets, task.options.radius)
    scores = 8.0 * torch.nn.functional.one_hot(assigned.labels, 3).movedim(-1, 1)
    return torch.cat([scores, task.grid.encode(assigned.boxes)], 1)


def test_detections_come_best_first_inside_the_image_and_no_more_than_asked() -> None:
    task = Detection(info(), {"detections": 5})
    digests = task.digest(random_outputs(task, 70), torch.empty(0), torch.empty(0))
    assert digests.shape == (70, 5, 6)
    there = digests[..., 4] >= 0
    assert (digests[..., 5].diff(dim=1)[there[:, 1:]] <= 0).all()
    assert (digests[..., :4][there] >= 0).all()
    assert (digests[..., :4][there] <= SIDE).all()


def test_outputs_that_are_not_finite_are_digested_all_the_same() -> None:
    task = Detection(info())
    outputs = random_outputs(task)
    outputs[0] = torch.nan
    outputs[1, 3:] = torch.inf
    digests = task.digest(outputs, torch.empty(0), torch.empty(0))
    assert torch.isfinite(digests).all()


def test_models_and_tasks_of_different_strides_are_told_apart(shapes: Dataset) -> None:
    task = Detection(shapes.info, {"stride": 8})
    model = build(Network(**NETWORK), (1, SIDE, SIDE), task.outputs)
    loss = build_loss({"name": "cross_entropy"}, loss_context(task))
    with pytest.raises(
        UserError, match=r"8×8 cells for images of 32×32, but .task\.stride. is 8, that is 4×4"
    ):
        task.objective(loss, model(torch.zeros(2, 1, SIDE, SIDE)), some_targets(), torch.empty(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 0}, "task.stride"),
        ({"box_los": "giou"}, "did you mean 'box_loss'"),
        ({"box_loss": "l7"}, "box_loss"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Detection(info(), options)


@pytest.mark.parametrize(("size", "stride"), [((32, 32), 2), ((30, 41), 4), ((33, 50), 8), ((40, 40), 16)])
def test_the_network_puts_out_one_cell_per_stride_and_expects_background(
    size: tuple[int, int], stride: int
) -> None:
    torch.manual_seed(0)
    network = Network(name="grid_detector", width=4, stride=stride, levels=2, prior=0.02)
    model = build(network, (3, *size), 3 + 4).eval()
    outputs = model(torch.randn(2, 3, *size))
    assert outputs.shape == (2, 7, -(-size[0] // stride), -(-size[1] // stride))
    background = outputs[:, :3].softmax(1)[:, 0]
    assert (background - 0.98).abs().max() < 0.02


@pytest.mark.parametrize(("options", "said"), [({"stride": 6}, "allowed: 2, 4, 8"), ({"width": 0}, "width")])
def test_bad_networks_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(Network(name="grid_detector", **options), (1, 32, 32), 7)
    with pytest.raises(UserError, match="needs images"):
        build(Network(name="grid_detector"), (32,), 7)
    with pytest.raises(UserError, match="for the task 'detection'"):
        build(Network(name="grid_detector"), (1, 32, 32), 3)


def test_what_a_person_is_shown_names_what_was_missed() -> None:
    task, targets = Detection(info()), some_targets().numpy()
    inputs = scene((0, 2, 2, 8), (1, 20, 18, 9))
    true = task.show_target(targets[0], inputs)
    assert true.text == "2 boxes"
    assert true.pixels is not None
    assert true.pixels.shape == (256, 256, 3)
    # The first box's left edge, at 8-fold size, is drawn in green; the middle of the picture is not.
    assert (true.pixels[40, 16] == (60, 220, 90)).all()
    assert (true.pixels[128, 128] == true.pixels[128, 128, 0]).all()
    found = np.concatenate([targets[0], np.full((2, 1), 0.9)], axis=1)
    assert task.show_decision(found, targets[0], inputs).text == "all 2 boxes found"
    assert not task.show_decision(found, targets[0], inputs).wrong
    found[1, 4] = 0
    shown = task.show_decision(found, targets[0], inputs)
    assert (shown.text, shown.wrong) == ("1 missed, 1 false", True)


@pytest.mark.slow
def test_a_population_trains_as_one_by_one(shapes: Dataset) -> None:
    loss = {"name": "cross_entropy"}
    together = setting(shapes, loss, Compute(engine="population"), epochs=1)
    pair = train_population(together, [Member(0), Member(1)])
    alone = [train_replicate(setting(shapes, loss, epochs=1), Member(seed)) for seed in (0, 1)]
    for mine, other in zip(pair, alone, strict=True):
        assert mine.history[0].value == pytest.approx(other.history[0].value, rel=1e-4)
    assert pair[0].history[0].value != pair[1].history[0].value
