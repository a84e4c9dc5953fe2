"""What does not fit is said in a sentence, by `check` or, where only the data tell, by `validate`: never by training."""

import math
import re
import shutil
import sys
from contextlib import chdir, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, stage, tiny_params, write_params
from data_cases import class_folder
from law_cases import each, mostly_slow
from PIL import Image

from lossbench.checking import check
from lossbench.data.current import up_to_date
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.evaluation.replicates import Predicted, score_predicted
from lossbench.models.base import MODELS
from lossbench.params import load_params, parse_params
from lossbench.recipe import Compute
from lossbench.studies import new_study
from lossbench.tasks.base import Scores, task_for
from lossbench.trial import model as trial
from lossbench.trial import try_experiment, try_shape

UNFIT = {
    "a classifier in a segmentation study": (
        lambda made: made["experiments"]["scenes"].update(model="lenet"),
        r"experiment 'scenes': model 'lenet' on samples of 1×32×32 puts out \d+ a sample",
    ),
    "a U-Net for which the size is not divisible": (
        lambda made: made["experiments"]["scenes"].update(model={"name": "unet", "depth": 6}),
        "experiment 'scenes': 'model.depth' is 6, for which a U-Net needs images whose sides are divisible by 64",
    ),
    "images too small for the model": (
        lambda made: made["experiments"]["digits"].update(model={"name": "simple_cnn", "layers": 5}),
        "experiment 'digits': ",
    ),
    "a dense model in a classification study": (
        lambda made: made["experiments"]["digits"].update(model={"name": "unet", "depth": 1}),
        r"experiment 'digits': model 'unet' on samples of 1×8×8 puts out \d+×8×8 a sample",
    ),
    "a language model on images": (
        lambda made: made["experiments"]["digits"].update(model="lstm"), "experiment 'digits': ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(UNFIT))
def test_a_model_that_does_not_fit_is_refused_by_check_before_there_are_data(
    what: str, tmp_path: Path
) -> None:
    change, sentence = UNFIT[what]
    made = tiny_params()
    change(made)
    with pytest.raises(UserError, match=sentence):
        check(parse_params(made), study=tmp_path)


def seen(change: Any) -> Any:
    made = tiny_params()
    change(made)
    return made


PETS = {"source": "image_folder", "path": "pets", "size": [8, 8], "channels": 1}
"""What says the shape of its samples, and not how many classes there are."""
CELLS = {
    "source": "segmentation_folder",
    "path": "cells",
    "size": [32, 32],
    "channels": 1,
    "classes": ["no", "yes", "edge"],
}
UNSHOWN = {
    "a loss of masks shown single labels": (
        lambda made: made["losses"].update(cross_entropy={"name": "hausdorff"}), "digits",
    ),
    "a sum with such a loss": (
        lambda made: made["losses"].update(cross_entropy={"sum": {"cross_entropy": 1, "boundary": 1}}), "digits",
    ),
    "weights of too many classes": (
        lambda made: (
            made["datasets"].update(scenes=CELLS), made["losses"].update(cross_entropy={"name": "cross_entropy", "class_weights": [1] * 5})
        ), "scenes",
    ),
    "two lists, each of another number of classes": (
        lambda made: (
            made["datasets"].update(digits=PETS),
            made["losses"].update(
                cross_entropy={"sum": {
                    "cross_entropy": {"weight": 1, "class_weights": [1] * 4}, "focal": {"weight": 1, "class_weights": [1] * 5}
                }}
            ),
        ), "digits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(UNSHOWN))
def test_a_loss_that_does_not_fit_is_refused_by_check_before_there_are_data(
    what: str, tmp_path: Path
) -> None:
    change, name = UNSHOWN[what]
    for folder in ("pets", "cells"):
        (tmp_path / folder).mkdir()
    params = parse_params(seen(change))
    with (
        chdir(tmp_path),
        pytest.raises(UserError, match=f"params.yaml: experiment '{name}': .*cross_entropy"),
    ):
        check(params, study=tmp_path)


@pytest.mark.parametrize("weights", [[1] * 7, "balanced", None])
def test_a_loss_that_fits_some_number_of_classes_passes_where_the_data_will_tell(
    weights: Any, tmp_path: Path
) -> None:
    spec = {"name": "cross_entropy"} | ({} if weights is None else {"class_weights": weights})
    params = parse_params(
        seen(lambda made: (made["datasets"].update(digits=PETS), made["losses"].update(cross_entropy=spec)))
    )
    try_shape("digits", params, (1, 8, 8))


@pytest.mark.parametrize("what", list(UNFIT))
def test_and_likewise_on_the_data(what: str, trained_study: Path) -> None:
    change, sentence = UNFIT[what]
    made = tiny_params()
    change(made)
    params = parse_params(made)
    name = "scenes" if "'scenes'" in sentence else "digits"
    with pytest.raises(UserError, match=sentence):
        try_experiment(name, params, Dataset.open(trained_study / "data" / name))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda made: made["losses"]["focal"].update(class_weights=[1.0, 2.0]), r"losses.focal.class_weights is"),
        (lambda made: made["losses"].update(focal={"name": "binary_cross_entropy"}), "losses.focal.name is"),
        (
            lambda made: made["experiments"]["scenes"].update(task="classification", metric="accuracy"),
            "needs a dataset with targets of kind label, found kind 'mask'",
        ),
        (lambda made: made["experiments"]["scenes"]["recipe"].update(sampling="balanced"), "one label per sample"),
    ],
)  # fmt: skip
def test_losses_task_and_recipe_are_tried_too(change: Any, sentence: str, trained_study: Path) -> None:
    made = tiny_params()
    made["experiments"] = {"scenes": {**made["experiments"]["scenes"]}}
    made["experiments"]["scenes"]["recipe"] = dict(made["experiments"]["scenes"]["recipe"])
    made["arms"] = {name: arm for name, arm in made["arms"].items() if arm["experiment"] == "scenes"}
    del made["hypotheses"]
    change(made)
    with pytest.raises(UserError, match=sentence):
        try_experiment("scenes", parse_params(made), Dataset.open(trained_study / "data/scenes"))


@each("split", ["validation", "test"])
@each(
    ("metric", "value", "refused"),
    [("mean_iou", 0, False), ("mean_iou", 255, True), ("boundary_f1", 255, True)],
)
def test_a_metric_that_is_no_number_on_a_split_is_refused_before_any_training(
    split: str, metric: str, value: int, refused: bool, trained_study: Path, tmp_path: Path
) -> None:
    """It would choose no epoch, or end in no verdict."""
    shutil.copytree(trained_study / "data/scenes", tmp_path / "scenes")
    data = Dataset.open(tmp_path / "scenes")
    np.save(tmp_path / f"scenes/{split}/targets.npy", np.full_like(data.split(split).targets, value))
    data = replace(data, info=replace(data.info, ignore_index=255))
    made = tiny_params()
    made["experiments"]["scenes"]["metric"] = metric
    made["hypotheses"] = {}
    said = pytest.raises(UserError, match=f"'scenes': metric '{metric}' .* no number on the {split} split: ")
    with said if refused else nullcontext():
        try_experiment("scenes", parse_params(made), data)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_scores_that_are_no_number_end_in_a_sentence(metric: str, trained_study: Path) -> None:
    """Of splits too large to be tried before, and of what only some predictions lack."""
    data = Dataset.open(trained_study / "data/digits")
    task = task_for("classification", metric)(data.info)
    task.score = lambda *_: Scores({metric: math.nan})  # type: ignore[method-assign]  # of this one alone
    with pytest.raises(
        UserError, match=f"metric '{metric}' is nan on the {data.info.sizes['test']} test samples"
    ):
        score_predicted(Predicted(True, np.zeros((2, 10))), task, metric, data)


def test_what_fits_passes_and_leaves_threads_and_random_numbers_alone(trained_study: Path) -> None:
    params = load_params(trained_study / "params.yaml")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    for name in params.experiments:
        try_experiment(name, params, Dataset.open(trained_study / "data" / name))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_model_that_moves_to_a_device_by_itself_is_refused(
    trained_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = torch.nn.Flatten.forward
    monkeypatch.setattr(torch.nn.Flatten, "forward", lambda self, images: usual(self, images).to("meta"))
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda self, features: features @ self.weight.to("meta").T
    )
    with pytest.raises(
        UserError, match=r"puts its outputs on 'meta', but is given samples on 'cpu'; allowed: no"
    ):
        try_experiment("digits", parse_params(tiny_params()), Dataset.open(trained_study / "data/digits"))


def test_a_model_is_tried_in_the_precision_that_it_is_trained_in(
    trained_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor may lack an operation in bfloat16, as those without AVX-512 lack recurrent layers."""
    usual = torch.nn.Conv2d.forward

    def forward(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")
        return usual(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    data = Dataset.open(trained_study / "data/digits")
    try_experiment("digits", parse_params(tiny_params()), data)
    params = parse_params(tiny_params() | {"compute": {"precision": "bf16"}})
    with pytest.raises(UserError, match=r"fails in 'compute\.precision: bf16': could not create a primitive"):
        try_experiment("digits", params, data)


@each(
    ("count", "batch", "drop", "refused"),
    [(17, 16, False, True), (17, 16, True, False), (18, 16, False, False), (16, 16, False, False), (5, 1, True, True),
     (1, 16, False, True), (33, 32, False, True)],
)  # fmt: skip
def test_a_last_batch_of_one_at_1x1_is_refused_where_batch_norm_cannot_train(
    count: int, batch: int, drop: bool, refused: bool, trained_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_params()
    made["experiments"]["scenes"]["model"] = {"name": "unet", "width": 4, "depth": 5}  # 32×32 down to 1×1
    recipe = {**made["experiments"]["scenes"]["recipe"], "batch_size": batch, "drop_last": drop}
    made["experiments"]["scenes"]["recipe"] = recipe
    data = Dataset.open(trained_study / "data/scenes")
    split = data.split("train")
    short = type(split)(split.inputs[:count], split.targets[:count])
    monkeypatch.setattr(Dataset, "split", lambda _self, _name: short)
    if not refused:
        try_experiment("scenes", parse_params(made), data)
        return
    with pytest.raises(UserError, match=r"'recipe.batch_size' is \d+, which leaves one sample"):
        try_experiment("scenes", parse_params(made), data)


SHAPES = {
    "mnist_cnn": (1, 28, 28), "lenet": (1, 28, 28), "torchvision": (3, 64, 64), "lstm": (12,),
}  # fmt: skip
OPTIONS = {"torchvision": {"architecture": "resnet18"}}


@pytest.mark.parametrize("name", mostly_slow(sorted(MODELS), 40))
def test_large_samples_cost_no_memory_every_model_runs_without_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbench.recipe import Network
    from lossbench.trial import Trial, try_model

    shape = SHAPES.get(name, (1, 32, 32))
    long = name == "lstm"
    samples = torch.zeros(2, *shape, dtype=torch.long if long else torch.float)
    outputs = 7 if name != "autoencoder" else 1

    class Task:
        pass

    task = Task()
    task.outputs = outputs  # type: ignore[attr-defined]  # a task's only attribute that a model asks for
    network = Network.model_validate({"name": name, **OPTIONS.get(name, {})})

    class Experiment:
        model = network

    found = {}
    for positions in (2**30, 0):
        monkeypatch.setattr(trial, "POSITIONS", positions)
        made = try_model(Trial("here", Experiment, task, samples, Compute()))  # type: ignore[arg-type]  # see above
        found[made.device.type] = tuple(made.shape)
    assert found["meta"] == found["cpu"], "an operation that the meta device lacks"


def masks(folder: Path, count: int, side: int) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(count):
            for kind, high in (("images", 256), ("masks", 2)):
                file = folder / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, high, (side, side)).astype(np.uint8)).save(file)
    return folder


def test_seventeen_images_of_8x8_with_masks_train_as_proposed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    study = new_study("tiny", masks(tmp_path / "cells", 17, 8), tmp_path)
    params = load_params(study / "params.yaml")
    fetch(params.datasets["tiny"], "tiny", study / "data/tiny")
    try_experiment("tiny", params, Dataset.open(study / "data/tiny"))


@pytest.mark.slow
def test_validate_says_what_check_could_not_know_and_lets_nothing_pass(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    study = new_study("tiny", masks(tmp_path / "cells", 17, 8), tmp_path)
    text = (
        (study / "params.yaml")
        .read_text()
        .replace("depth: 1", "depth: 3")
        .replace("batch_size: 4", "batch_size: 16")
    )
    (study / "params.yaml").write_text(text)
    (study / "reports/validation").mkdir(parents=True)
    assert stage(study, "check").returncode == 0
    assert stage(study, "fetch", "tiny").returncode == 0
    ran = stage(study, "validate", "tiny")
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "'recipe.batch_size' is 16, which leaves one sample" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (study / "reports/validation/tiny.passed").exists()
    # DVC's cache of runs brings it back: what is to be trained is tried once more.
    (study / "reports/validation/tiny.passed").write_text("passed\n")
    ran = stage(study, "train", next(iter(load_params(study / "params.yaml").arms)))
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "'recipe.batch_size' is 16, which leaves one sample" in ran.stderr
    assert "Traceback" not in ran.stderr
    again = stage(study, "check")  # from now on it knows
    assert again.returncode == 2
    assert "'recipe.batch_size' is 16" in again.stderr


def test_old_data_do_not_hold_up_new_params_or_new_files(tmp_path: Path) -> None:
    made = tiny_params()
    made["datasets"]["digits"] = {"source": "image_folder", "path": "pets", "size": [8, 8], "channels": 1}
    write_params(tmp_path, made)
    class_folder(tmp_path / "pets", 20, ("cat", "dog"))
    dataset = load_params(tmp_path / "params.yaml").datasets["digits"]
    assert not up_to_date(tmp_path, "digits", dataset)
    here = dataset.model_copy(update={"path": str(tmp_path / "pets")})
    fetch(here, "digits", tmp_path / "data/digits")
    assert up_to_date(tmp_path, "digits", dataset)
    block = made["datasets"]["digits"]
    size = sum(one.stat().st_size for one in (tmp_path / "pets").rglob("*.png"))
    noted = {
        "deps": [{"path": "pets", "nfiles": 40, "size": size}],
        "params": {"params.yaml": {"datasets.digits": block}},
    }
    write_lock(tmp_path, noted)
    write_params(tmp_path, made)  # younger now; DVC's note tells that it is the same
    assert up_to_date(tmp_path, "digits", dataset)
    assert not up_to_date(tmp_path, "digits", dataset.model_copy(update={"subset": 4}))
    class_folder(tmp_path / "pets", 21, ("cat", "dog"))
    assert not up_to_date(tmp_path, "digits", dataset)


def write_lock(study: Path, noted: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    with (study / "dvc.lock").open("w") as stream:
        YAML().dump({"schema": "2.0", "stages": {"fetch@digits": noted}}, stream)


HOSTILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], outputs))

    def forward(self, x):
        return self.net(x)


class Twice(Net):
    def forward(self, x):
        return torch.cat([self.net(x)] * 2)


class Squeezed(Net):
    def forward(self, x):
        return self.net(x).squeeze()


class Fewer(Net):
    def forward(self, x):
        return self.net(x) if self.training else self.net(x)[:, :1]


class Decides(Net):
    def forward(self, x):
        return self.net(x) if self.training else self.net(x).argmax(1)


class Pair(Net):
    def forward(self, x):
        return self.net(x) if self.training else (self.net(x), 1)


class Complex(Net):
    def forward(self, x):
        return torch.complex(self.net(x), self.net(x))


class Raises(Net):
    def forward(self, x):
        return 1 / 0 if self.training else None


class RaisesLater(Net):
    def forward(self, x):
        return self.net(x) if self.training else self.missing


class Late(Net):
    def forward(self, x):
        self.late = getattr(self, "late", nn.Linear(1, 1))
        return self.net(x)


class Grows(Net):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x):
        self.seen = torch.cat([self.seen, torch.zeros(1)])
        return self.net(x)


class Lazy(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))

    def forward(self, x):
        return self.net(x)


class Stateless(Net):
    def state_dict(self, *args, **given):
        raise OSError("no state")


class Modeless(Net):
    def train(self, mode=True):
        raise RuntimeError("no mode")


class Items(Net):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.rates = [one.item() for one in torch.linspace(0, 0.1, 3)]
        self.net[1].weight.data = torch.tensor(self.net[1].weight.detach().numpy())


class Constant(Net):
    def forward(self, x):
        return self.net(x + torch.ones(1, device="cpu"))


class Conditional(Net):
    def forward(self, x):
        return self.net(x if x.sum() > 0 else -x)


class ByNumPy(Net):
    def forward(self, x):
        return self.net(torch.from_numpy(x.detach().cpu().numpy()))
"""
MISBEHAVED = {
    "Twice": "puts out 4×10 for a batch of 2; expected 2",
    "Squeezed": "puts out 10 for a batch of 1; expected 1",
    "Fewer": "puts out 10 a sample in training, but 1 in evaluation mode",
    "Decides": "puts out int64 numbers; expected floating point",
    "Pair": "returns a tuple",
    "Complex": "puts out complex64 numbers; expected floating point",
    "Raises": "fails: ZeroDivisionError division by zero",
    "RaisesLater": "fails: AttributeError 'RaisesLater' object has no attribute 'missing'",
    "Late": "makes or resizes 'network.late.bias' while it runs",
    "Grows": "makes or resizes 'network.seen' while it runs",
    "Lazy": "has a lazy layer ('network.net.1.weight')",
    "Stateless": "fails: OSError no state",
    "Modeless": "fails: no mode",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "misbehaved.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "misbehaved:{}".format
    sys.modules.pop("misbehaved", None)


@pytest.mark.parametrize("positions", [2**30, 0], ids=["cpu", "meta"])
@pytest.mark.parametrize("name", MISBEHAVED)
def test_ones_own_network_is_refused_for_what_would_fail_after_hours(
    name: str, positions: int, own: Any, trained_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "POSITIONS", positions)
    made = seen(lambda one: one["experiments"]["digits"].update(model=own(name)))
    with pytest.raises(UserError, match=re.escape(MISBEHAVED[name])) as error:
        try_experiment("digits", parse_params(made), Dataset.open(trained_study / "data/digits"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Net", "Constant", "Conditional", "ByNumPy", "Items"])
def test_what_the_meta_device_cannot_do_is_no_fault_of_a_network(
    name: str, own: Any, trained_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "POSITIONS", 0)
    made = seen(lambda one: one["experiments"]["digits"].update(model=own(name)))
    try_experiment("digits", parse_params(made), Dataset.open(trained_study / "data/digits"))
