"""`lossbench.compare`: the pipeline's bits from a notebook's arrays, and one sentence for what makes no sense."""

import ast
import hashlib
import json
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from api_cases import Decided, Formless, Mean, Pair, Plain, Wide
from conftest import ROOT, tiny_params
from docs_cases import blocks
from law_cases import mostly_slow
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import lossbench
from lossbench.api import compare as api
from lossbench.api.code import Code, fresh
from lossbench.data.dataset import Dataset as Fetched
from lossbench.execution.inline import InlineExecutor
from lossbench.execution.jobs import TRAIN
from lossbench.store import Store

CLASSES = {"digits": None, "scenes": ("background", *map(str, range(10)))}
TASKS = {"digits": "classification", "scenes": "segmentation"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, whose store no other test has filled."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOSSBENCH_HOME", "LOSSBENCH_STORE", "LOSSBENCH_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def splits_of(study: Path, dataset: str) -> dict[str, Any]:
    """A study's splits, as a notebook holds them: tensors of the types that torch users have."""
    data, made = Fetched.open(study / "data" / dataset), {}
    for name in ("train", "validation", "test"):
        split = data.split(name)
        made[name] = (
            torch.from_numpy(np.array(split.inputs)),
            torch.from_numpy(np.array(split.targets)).long(),
        )
    return made


def asked(study: Path, experiment: str, **changes: Any) -> dict[str, Any]:
    """The call that asks what the tiny study's experiment does."""
    block = tiny_params()["experiments"][experiment]
    return {
        "model": block["model"],
        "losses": {"cross_entropy": "cross_entropy", "focal": {"name": "focal", "gamma": 2.0}},
        "task": TASKS[experiment],
        "metric": block["metric"],
        "margin": block["margin"],
        "seeds": 3,
        "recipe": block["recipe"],
        "classes": CLASSES[experiment],
        **splits_of(study, experiment),
        **changes,
    }


def states(folder: Path) -> dict[str, str]:
    """Hash of every replicate's weights, by loss and seed."""
    return {
        f"{file.parent.name.rpartition('-')[2]} {file.stem}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("seed-*.safetensors")
    }


def scores(table: Any) -> list[Any]:
    return sorted(table[["loss", "seed", "metric", "value"]].itertuples(index=False, name=None))


class Recording(InlineExecutor):
    """Computes in this process, and remembers what."""

    computed: list[str] = []  # noqa: RUF012  # of all that a test computes

    def submit(self, jobs: Sequence[Any]) -> None:
        self.computed.extend(type(job).__name__ for job in jobs)
        super().submit(jobs)


class Inline:
    """Computes in this process: no worker is started."""

    workers = 1

    def __init__(self, params: Any, outs: Any, store: Any) -> None:
        self._given = (params, outs, store)

    def where(self) -> Any:
        from lossbench.execution.local import where

        return where(*self._given)

    def executor(self) -> Any:
        return Recording()


@pytest.fixture
def inline(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything in this process: what computes, what checks, and no Great Expectations."""
    Recording.computed.clear()
    monkeypatch.setattr("lossbench.execution.sites.SITES", {"local": Inline})
    monkeypatch.setattr("lossbench.running.make_plan", lambda *_: [])
    monkeypatch.setattr("lossbench.execution.local.warm_up", lambda: None)
    monkeypatch.setattr("lossbench.execution.validation.validated", lambda *_: Passed)

    def in_process(function: Callable[..., None], params: Any, study: Path) -> None:
        fresh(study / params.code, lambda: function(params, study))

    monkeypatch.setattr("lossbench.execution.beside.in_worker", in_process)
    monkeypatch.setattr("lossbench.running.validator", lambda *_: Unneeded())
    return here


class Unneeded:
    def __enter__(self) -> Callable[[object], None]:
        return lambda _: None

    def __exit__(self, *_: object) -> None:
        return None


class Passed:
    """What the expectations say of data that are in order."""

    content: Mapping[str, Any] = {"failed": None}

    @staticmethod
    def read(_: str) -> bytes:
        return b'{"dataset": "comparison", "success": true, "evaluated": 1, "expectations": []}'


@pytest.mark.parametrize("experiment", mostly_slow(["digits", "scenes"], 2))
def test_what_the_pipeline_has_trained_is_not_computed_again(
    trained_study: Path, inline: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    """From the study's store: the same keys, so the same states and scores; not even a process is started."""
    import pandas as pd

    monkeypatch.setenv("LOSSBENCH_STORE", str(trained_study / ".lossbench" / "store"))
    monkeypatch.setattr(
        "lossbench.execution.beside.in_worker", lambda *_: pytest.fail("a worker was started")
    )
    found = lossbench.compare(**asked(trained_study, experiment, name=experiment))
    assert Recording.computed == []
    assert states(found.folder / "models") == states(trained_study / "models" / experiment)
    assert len(states(found.folder / "models")) == 6
    theirs = pd.read_csv(trained_study / "reports/evaluation" / experiment / "scores.csv")
    assert scores(found.scores) == scores(theirs)
    lossbench.compare(**asked(trained_study, experiment, name="otherwise"))
    assert Recording.computed == ["Gallery"], "which names the arms that it shows"


@pytest.mark.slow
def test_what_is_computed_are_the_pipelines_bits(trained_study: Path, inline: Path) -> None:
    """In a store of its own, by other names: the same states and scores."""
    import pandas as pd

    found = lossbench.compare(**asked(trained_study, "digits", seeds=2, name="mine"))
    theirs = states(trained_study / "models/digits")
    assert states(found.folder / "models") == {who: one for who, one in theirs.items() if "seed-2" not in who}
    table = pd.read_csv(trained_study / "reports/evaluation/digits/scores.csv")
    assert scores(found.scores) == scores(table[table["seed"] < 2])
    again = lossbench.compare(**asked(trained_study, "digits", seeds=2, name="mine"))
    assert again.answer == found.answer


def test_numbers_that_are_no_pixels_are_taken_as_they_are(
    inline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standardised already, and channels last: both are said; the gallery and the networks take them."""
    images = np.moveaxis(np.repeat(X, 3, axis=1) / 50.0 - 2, 1, -1)
    recipe = {"epochs": 1, "batch_size": 8}
    found = lossbench.compare(**call(train=(images, Y), seeds=1, recipe=recipe, model=Wide))
    said = capsys.readouterr().out
    assert "note: inputs of shape (8, 8, 3) are read as height, width, channels" in said
    assert "note: inputs lie between -2 and " in said
    assert found.models("a")[0](torch.from_numpy(images[:2]).movedim(-1, 1)).shape == (2, 4)


def test_a_comparison_says_what_it_found(trained_study: Path, inline: Path) -> None:
    found = lossbench.compare(**asked(trained_study, "digits", seeds=2))
    assert list(found.verdicts["loss"]) == ["focal"]
    assert list(found.verdicts["against"]) == ["cross_entropy"]
    assert set(found.verdicts["verdict"]) <= {"better", "worse", "tie", "undecided", "not trained"}
    assert set(found.leaderboard["loss"]) == {"cross_entropy", "focal"}
    page, html = found.report("out/page.html").read_text(), found._repr_html_()
    assert found.answer in repr(found)
    assert "<script" not in html
    for told in (page, html):
        assert found.answer in re.sub(r"</?(strong|wbr)>", "", told).replace("&#39;", "'")
        assert found.verdicts["sentence"].iloc[0] in told
    inputs = splits_of(trained_study, "digits")["test"][0]
    networks = found.models("focal")
    assert list(networks) == [0, 1]
    right = (networks[0](inputs).argmax(1) == splits_of(trained_study, "digits")["test"][1]).double().mean()
    table = found.scores.query("loss == 'focal' and seed == 0 and metric == 'accuracy'")
    assert table["value"].item() == pytest.approx(right.item(), abs=1e-6)
    with pytest.raises(lossbench.UserError, match="no loss 'focl' was compared; did you mean 'focal'"):
        found.models("focl")


def test_ctrl_c_keeps_what_is_finished(
    trained_study: Path, inline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lossbench.execution import work

    train, trained = work._train, []

    def interrupted(job: Any, *more: Any) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(job, *more)
        trained.append(job.label)

    monkeypatch.setattr(work, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lossbench.compare(**asked(trained_study, "digits", seeds=2))
    assert "what was finished is kept: the same call goes on" in capsys.readouterr().err
    trained.append("the third begins")
    lossbench.compare(**asked(trained_study, "digits", seeds=2))
    assert len(set(trained)) == len(trained) == 5
    kinds = [kind for kind, _ in Store(str(inline / ".lossbench/store")).entries()]
    assert kinds.count(TRAIN) == 4


@pytest.mark.slow
def test_looks_are_taken_until_everything_is_decided(trained_study: Path, inline: Path) -> None:
    found = lossbench.compare(**asked(trained_study, "digits", seeds=3, looks=(2, 3)))
    assert found.scores["seed"].nunique() == 3
    assert "seeds" in found._repr_html_()


def cell(text: str, space: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a notebook's cell as IPython does: its source is known by a name of its own, what it ends with is shown."""
    name = f"<cell {abs(hash(text))}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {"__name__": "__main__"} if space is None else space
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)  # noqa: S102  # the test's own text
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), name, "eval"), space)  # noqa: S307  # the test's own text
        getattr(shown, "_repr_html_", str)()
    return space


CELL = """
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import log_softmax

SMOOTHING, weights = 0.1, torch.tensor([1.0] * 9 + [2.0])
target = object()  # a name of the notebook that a function has for itself

class Base(nn.Module):
    pass

class Net(Base):
    def __init__(self, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

def scaled(value):
    return value * (1 - SMOOTHING)

def mine(logits: Tensor, target: Tensor) -> Tensor:
    return scaled(F.nll_loss(log_softmax(logits, 1), target, weight=weights))

def powered(power):
    def loss(logits, target):
        return F.cross_entropy(logits, target) ** power
    return loss

losses = {"twice": lambda logits, target: 2 * F.cross_entropy(logits, target), "mine": mine, "squared": powered(2.0)}
"""


def test_a_notebooks_own_network_and_losses_are_trained(trained_study: Path, inline: Path) -> None:
    space = cell(CELL)
    changes = {"model": space["Net"], "losses": space["losses"], "seeds": 1}
    found = lossbench.compare(**asked(trained_study, "digits", **changes))
    assert len(states(found.folder / "models")) == 3
    assert found.answer.startswith("no verdict")
    assert found.models("mine")[0].network.network.layers[1].weight.shape == (10, 64)


def text_of(space: Mapping[str, Any], name: str, folder: Path) -> str:
    own = folder / f"code{len(list(folder.iterdir()))}"
    module, _, _ = Code(own).name_of(space[name], "losses.mine").partition(":")
    return (own / f"{module}.py").read_text()


def test_an_object_is_known_by_its_source_and_that_of_what_it_uses(tmp_path: Path) -> None:
    before = text_of(cell(CELL), "mine", tmp_path)
    spoken = CELL.replace("def mine", "# said otherwise\n\ndef mine")
    assert text_of(cell(spoken), "mine", tmp_path) == before
    assert text_of(cell(CELL.replace("class Net", "class Other")), "mine", tmp_path) == before
    for old, new in (("0.1", "0.2"), ("[2.0]", "[3.0]"), ("(1 - ", "(2 - ")):
        assert text_of(cell(CELL.replace(old, new)), "mine", tmp_path) != before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("net = object()\ndef mine(a, b): return net(a, b)",
         "losses.mine: 'mine' uses 'net', a object, which workers cannot be given; allowed there: modules, .*inside 'mine'"),
        ("import torch\nbig = torch.zeros(200, 200)\ndef mine(a, b): return (a - b) * big",
         "'mine' uses 'big', a Tensor of shape \\(200, 200\\)"),
        ("class A:\n    def own(self, a, b): return a\nmine = A().own", "'own' belongs to an object"),
        ("import torch\nmine = type('mine', (torch.nn.CrossEntropyLoss,), {})", "source of 'mine' is not to be found; give it a method"),
    ],
)  # fmt: skip
def test_what_workers_cannot_be_given_is_said(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(lossbench.UserError, match=sentence):
        Code(tmp_path / "code").name_of(cell(text)["mine"], "losses.mine")


def test_objects_are_read_off_where_they_tell_their_arguments(tmp_path: Path) -> None:
    from lossbench.api.asked import losses_of
    from lossbench.losses import Focal

    given = {
        "object": nn.CrossEntropyLoss(label_smoothing=0.1),
        "ours": Focal(gamma=3.0),
        "class": Focal,
        "function": F.cross_entropy,
        "partial": partial(F.cross_entropy, label_smoothing=0.2),
        "focal": {"gamma": 1.0},
        "sum": {"sum": {"cross_entropy": 1.0, "own": {"name": F.cross_entropy, "weight": 0.5}}},
    }
    made = losses_of(given, Code(tmp_path / "code"))
    assert made == {
        "object": {"name": "torch.nn.modules.loss:CrossEntropyLoss", "label_smoothing": 0.1},
        "ours": {"name": "focal", "gamma": 3.0},
        "class": {"name": "focal"},
        "function": {"name": "torch.nn.functional:cross_entropy"},
        "partial": {"name": "torch.nn.functional:cross_entropy", "label_smoothing": 0.2},
        "focal": {"name": "focal", "gamma": 1.0},
        "sum": {
            "sum": {"cross_entropy": 1.0, "own": {"name": "torch.nn.functional:cross_entropy", "weight": 0.5}}
        },
    }
    with pytest.raises(lossbench.UserError, match=r"losses.x: a CrossEntropyLoss object, whose argu"):
        losses_of({"x": nn.CrossEntropyLoss(weight=torch.ones(10))}, Code(tmp_path / "code"))


X, Y = np.random.default_rng(0).integers(0, 256, (48, 1, 8, 8), np.uint8), np.arange(48) % 4
M = np.broadcast_to(Y[:, None, None], (48, 8, 8))
SOFT = np.random.default_rng(0).dirichlet([1, 1, 1, 1], 48)
NAN = X.astype(float)
NAN[3, 0, 0, 0] = np.nan


class Growing(Dataset):  # type: ignore[type-arg]  # of items of any kind
    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        return torch.zeros(3, 8 + number, 8), 0


class Random(Growing):
    def __getitem__(self, number: int) -> Any:
        return torch.rand(3, 8, 8), 0


class Broken(Growing):
    def __getitem__(self, number: int) -> Any:
        raise FileNotFoundError("cat.png")


class Endless(Growing):
    def __len__(self) -> int:
        raise TypeError("no end to it")


class Three(Growing):
    def __getitem__(self, number: int) -> Any:
        return torch.zeros(3, 8, 8), 0, "cat"


def call(**changes: Any) -> dict[str, Any]:
    return {
        "model": "lenet", "losses": {"a": "cross_entropy", "b": "focal"}, "train": (X, Y), "task": "classification",
        "metric": "accuracy", "margin": 0.01, "seeds": 2, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "model is missing; expected a class, a function"),
        ({"losses": None}, 'losses is missing; expected a mapping such as'),
        ({"losses": {}}, "losses is missing"),
        ({"losses": {"a": 3}}, "losses.a: a int; expected a loss's name, a mapping, a class or a function"),
        ({"losses": {"a b": "focal"}}, "'losses.a b' is no valid name"),
        ({"metric": None}, "metric is missing; expected one of the task's test metrics"),
        ({"margin": None}, "margin is missing; expected the largest difference that does not matter"),
        ({"margin": "wide"}, "'margin' is 'wide'; input should be a valid number"),
        ({"task": "clasification"}, "'task' names no task: 'clasification'; did you mean 'classification'"),
        ({"task": 3}, "task is 3; expected a task's name"),
        ({"task": "language_model"}, "targets of kind 'tokens' are not taken from Python"),
        ({"name": "my comparison"}, "name is 'my comparison'; allowed: letters, digits"),
        ({"seeds": 0}, "seeds is 0; expected how many, or a list of them"),
        ({"seeds": "8"}, "seeds is '8'"),
        ({"seeds": [1, 1]}, "'seeds' holds a seed twice"),
        ({"recipe": 3}, "recipe is a int; expected lossbench.Recipe"),
        ({"recipe": {"epochs": 2, "batch_sise": 4}}, "unknown key 'recipe.batch_sise'; did you mean 'batch_size'"),
        ({"recipe": {"epochs": 2, "batch_size": 4}, "budgets": (0.5,)}, "budgets must ascend to 1"),
        ({"tuning": "wide"}, "tuning is a str; expected a number of points"),
        ({"looks": (2, 4)}, "the last of 'looks' needs 4 seeds, 'seeds' declares 2"),
        ({"executor": "sluurm"}, "executor is 'sluurm'; did you mean 'slurm'"),
        ({"baseline": "c"}, "baseline is 'c', which is none of losses; allowed: a, b"),
        ({"device": "tpu"}, "'device' is 'tpu'"),
        ({"classes": "abcd"}, "classes: expected two or more different names"),
        ({"classes": ["a", "b"]}, "train: target 2 is no class; allowed: 0 to 1"),
        ({"model": Plain()}, "model: a Plain that is built already, but each replicate begins with weights of its own"),
        ({"train": None}, "train is missing; expected \\(inputs, targets\\), a torch Dataset, or a pandas DataFrame"),
        ({"train": X}, "train: an array alone; expected two"),
        ({"train": (X, Y, Y)}, "train: 3 things; expected two"),
        ({"train": (X, Y[:-1])}, "train: 48 inputs, but 47 targets"),
        ({"train": (X[:0], Y[:0])}, "train inputs: shape \\(0, 1, 8, 8\\); expected images"),
        ({"train": (X.reshape(48, 64), Y)}, "train inputs: shape \\(48, 64\\); expected images \\(N, C, H, W\\)"),
        ({"train": (NAN, Y)}, "train inputs: NaN in sample 3; expected finite numbers"),
        ({"train": (X.astype(int) - 9, Y)}, "whole numbers from -9 to \\d+; expected 0 to 65535, or floats"),
        ({"train": ([[1, 2], [3]], Y)}, "train inputs: "),
        ({"train": (X, Y + 1)}, "train: targets go up to 4, but none is 0; number classes from 0"),
        ({"train": (X, Y - 1)}, "train: target -1 is no class"),
        ({"train": (X, np.array(["cat", "dog"])[Y % 2])}, "train targets: text such as 'cat'; name all of them, classes="),
        ({"train": (X, Y + 0.5)}, "train targets: 0.5 is no class number"),
        ({"train": (X, np.eye(4)[Y])}, "train targets: shape \\(48, 4\\); .*of one-hot targets take .argmax\\(1\\)"),
        ({"test": (X[:, :, :4], Y)}, "test: inputs of shape \\(1, 4, 8\\) and type uint8, but train has \\(1, 8, 8\\)"),
        ({"train": torch.utils.data.DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)))},
         "train: a DataLoader; pass its dataset \\(train=loader.dataset\\)"),
        ({"train": Growing()}, "train: sample 1 has an input of shape \\(3, 9, 8\\), sample 0 one of \\(3, 8, 8\\)"),
        ({"train": Random()}, "train: sample 0 is another one each time it is read; .*augmentation="),
        ({"train": Broken()}, "train: sample 0 cannot be read: FileNotFoundError: cat.png"),
        ({"train": Endless()}, "train: the Dataset's length cannot be read: TypeError: .?no end to it"),
        ({"model": 3}, "model: a int; expected a class, a function, or a name"),
        ({"model": [Plain]}, "model: a list; expected a class"),
        ({"model": {"width": 3}}, "model: a NoneType; expected a class, a function, or a name"),
        ({"train": Three()}, "train: sample 0 is a tuple of 3; expected \\(input, target\\)"),
        ({"train": 3}, "train: a int; expected"),
        ({"table": {"size": (8, 8)}}, "table is for data frames; train is none"),
        ({"task": "segmentation", "train": (X, M[:, :4])}, "train: masks of shape \\(4, 8\\), but inputs of \\(8, 8\\)"),
        ({"task": "segmentation", "train": (X, M // 2 * 255)}, "none is 1, 2, 3, …; .*of masks of 0 and 255 take mask // 255"),
        ({"task": "segmentation", "train": (X, np.where(M == 3, -1, M))}, "-1 is no class; .*named by ignore_index"),
        ({"task": "multilabel", "train": (X, np.eye(4)[Y] * 2)}, "2 stands among the labels; allowed: 0 and 1"),
        ({"task": "detection", "train": (X, np.zeros((48, 2, 4)))}, "boxes of shape \\(2, 4\\); expected \\(k, 5\\)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(inline: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(lossbench.UserError, match=sentence) as told:
        lossbench.compare(**call(**changes))
    assert str(told.value).startswith("lossbench.compare: ")
    assert "\n" not in str(told.value)
    assert "experiments." not in str(told.value)
    assert not any((inline / ".lossbench/comparisons").glob(".*"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "acuracy"}, "'metric' names no metric of task 'classification': 'acuracy'; did you mean 'accuracy'"),
        ({"model": "lenett"}, "'model' names no model: 'lenett'; did you mean 'lenet'"),
        ({"losses": {"a": "cross_entrpy"}}, "losses.a.name is 'cross_entrpy'; did you mean 'cross_entropy'"),
        ({"losses": {"a": {"name": "focal", "gama": 2}}}, "losses.a.gama is no parameter of focal; did you mean 'gamma'"),
        ({"model": Pair}, "model 'api_cases:Pair' returns a tuple; allowed: a tensor"),
        ({"model": Mean}, "puts out 1×4 for a batch of 2; expected 2"),
        ({"model": Decided}, "cannot learn: no gradient leads from its outputs to a weight"),
        ({"model": Formless}, r"fails: Module \[Formless\] is missing the required .forward. function"),
        ({"model": {"name": Plain, "classes": 4}, "losses": {"a": lambda logits, target: logits.detach().sum()}},
         "no gradient leads from what loss 'a' returns to the logits"),
        ({"model": {"name": Plain, "classes": 2}}, "puts out 2 a sample"),
        ({"model": {"name": Plain, "classes": 7}}, "puts out 7 a sample, but task 'classification' needs 4 \\(of 4 classes"),
        ({"model": {"name": Plain, "clases": 4}}, "unknown key 'model.clases'; (did you mean|allowed)"),
        ({"model": {"name": Plain, "classes": 4}, "losses": {"a": lambda logits, target: logits}}, "returns a tensor of shape"),
        ({"model": {"name": Plain, "classes": 4}, "losses": {"a": F.cross_entropy}, "weights": np.ones(48)},
         "losses.a: loss '.*' takes no weights, but the data have a weight for each sample; allowed: a loss with an"),
        ({"model": {"name": Plain, "classes": 4}, "losses": {"a": "lovasz"}, "train": (X, SOFT)}, "losses.a.name is lovasz, which takes no distribution"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_trained(
    inline: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(lossbench.UserError, match=sentence) as told:
        lossbench.compare(**call(**changes))
    assert str(told.value).startswith("lossbench.compare: ")
    assert not (inline / ".lossbench/store/replicates").exists()


@pytest.mark.slow
def test_a_store_of_mlflow_gets_the_comparison(inline: Path) -> None:
    """And once: the same call again adds nothing."""
    import mlflow

    store = f"sqlite:///{inline / 'record.db'}"
    recipe = {"epochs": 1, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.01}}
    small = {"name": "simple_cnn", "width": 4, "hidden": 8}
    wanted = call(model=small, recipe=recipe, mlflow=store, train=(X, SOFT), weights=np.arange(48))
    for _ in range(2):
        made = lossbench.compare(**wanted)
        assert set(made.scores["loss"]) == {"a", "b"}
        client = mlflow.MlflowClient(tracking_uri=store)
        found = [
            run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])
        ]
        names = [run.info.run_name for run in found]
        assert len(names) == len(set(names))
        assert {"comparison-a", "comparison-b"} <= set(names)
        assert any("accuracy" in key for run in found for key in run.data.metrics)
    assert os.environ.get("MLFLOW_TRACKING_URI") != store


def samples_of(train: Any, folder: Path, task: str = "label", **wanted: Any) -> str:
    """Hash of the samples as they come to lie on the disk."""
    from lossbench.api.arrays import Notes
    from lossbench.api.given import Given, fetched, wanted_of
    from lossbench.data.fetching import write
    from lossbench.params import Dataset as Block
    from lossbench.params import Splits

    table = wanted.pop("table", {})
    kind = wanted_of(task, wanted.get("classes"), wanted.get("ignore_index"))
    shares = Splits(reference=0.0)
    splits = {"train": train, "validation": None, "test": None}
    made = fetched(Given(splits, kind, table, folder / "read"), shares, Notes())
    write(made, Block(source="python", path="data", splits=shares), "d", folder / "data")
    described = (folder / "data/dataset.json").read_bytes()
    return str(json.loads((folder / "data/provenance.json").read_bytes())["samples_sha256"]) + str(described)


class Pictures(Dataset):  # type: ignore[type-arg]  # of items of any kind
    """As torchvision's users have them: a picture of Pillow's and a number."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Any:
        from PIL import Image

        return Image.fromarray(self.images[number]), self.labels[number]


def test_the_same_samples_are_the_same_data_however_they_are_handed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 6, 3), np.uint8)
    first = np.moveaxis(pixels, -1, 1)
    labels = np.arange(40) % 3
    given = [
        (first, labels),
        (pixels, labels),
        (torch.from_numpy(first.copy()), torch.from_numpy(labels)),
        (torch.from_numpy(first.astype(np.int64)), labels.astype(float)),
        (first, labels[:, None]),
        (first.tolist(), labels.tolist()),
        TensorDataset(torch.from_numpy(first.copy()), torch.from_numpy(labels)),
        Pictures(pixels, labels),
        [{"image": one, "label": label} for one, label in zip(first, labels, strict=True)],
    ]
    made = {samples_of(one, tmp_path / str(number)) for number, one in enumerate(given[:-1])}
    assert len(made) == 1
    masks = (first[:, 0] > 127).astype(np.int64)
    holed = np.where(first[:, 1] > 250, -100, masks)
    as_bool = samples_of((first, masks.astype(bool)), tmp_path / "bool", "mask")
    assert as_bool == samples_of((first, masks[:, None].astype(np.float32)), tmp_path / "float", "mask")
    stored = np.where(holed == -100, 255, holed).astype(np.uint8)
    with_holes = samples_of((first, holed), tmp_path / "holed", "mask", ignore_index=-100)
    assert with_holes == samples_of((first, stored), tmp_path / "stored", "mask", ignore_index=255)
    assert with_holes != as_bool


def test_a_data_frame_is_read_as_the_source_table_reads_it(here: Path) -> None:
    import pandas as pd
    from PIL import Image

    from lossbench.data.fetching import fetch
    from lossbench.params import Dataset as Block
    from lossbench.params import Splits

    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(30)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(here / name)
    frame = pd.DataFrame({"image": names, "label": ["cat", "dog"] * 15, "site": [1, 2, 3] * 10})
    frame.to_csv(here / "samples.csv", index=False)
    shares = Splits(reference=0.0)
    fetch(Block(source="table", path=str(here), splits=shares), "d", here / "out")
    wanted = json.loads((here / "out/provenance.json").read_bytes())["samples_sha256"]
    assert samples_of(frame, here / "frame").startswith(wanted)
    with pytest.raises(
        lossbench.UserError, match="DataFrame, row 1: no column 'image'; did you mean 'images'"
    ):
        samples_of(frame.rename(columns={"image": "images"}), here / "b")
    with pytest.raises(lossbench.UserError, match="DataFrame, row 4: 'image' is empty"):
        samples_of(frame.assign(image=[*names[:3], None, *names[4:]]), here / "c")
    with pytest.raises(lossbench.UserError, match="targets are of kind label, the task's of kind mask"):
        samples_of(frame, here / "e", "mask")
    with pytest.raises(lossbench.UserError, match=r"'table.siz"):
        samples_of(frame, here / "f", table={"siz": (8, 8)})


def test_the_package_alone_imports_nothing() -> None:
    text = "import lossbench, sys; dir(lossbench); print({'torch', 'numpy', 'pydantic', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda name: None if name in ("pandas", "altair") else name)
    with pytest.raises(lossbench.UserError, match="needs the packages pandas, altair; install"):
        lossbench.compare(**call())


@pytest.mark.slow
def test_the_call_of_the_page_is_answered(here: Path) -> None:
    (text,) = blocks(ROOT / "docs/python-api.md", "python")
    small = text.replace("epochs=30", "epochs=1").replace(
        "    margin=0.01,\n", "    margin=0.01,\n    seeds=2,\n"
    )
    assert small.count("seeds=2") == small.count("epochs=1") == 1
    random = np.random.default_rng(0)
    masks = random.integers(0, 2, (40, 16, 16))
    images = (masks * 120 + random.integers(0, 60, masks.shape)).astype(np.uint8)
    halves = {
        "images": images[:24],
        "masks": masks[:24],
        "test_images": images[24:],
        "test_masks": masks[24:],
    }
    found = cell(small, {"__name__": "__main__", **halves})["found"]
    assert sorted(set(found.scores["loss"])) == ["both", "ce", "dice"]


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {"__name__": "__main__"}
    for one in cells:
        if one["cell_type"] == "code":
            assert one["outputs"] == []
            cell("".join(one["source"]), space)
    assert "6 replicates to train" in capsys.readouterr().out, "of one loss more: the others are there"
    assert (here / "comparison.html").stat().st_size > 100_000
    assert "train with" in space["found"].answer or "no reason" in space["found"].answer


SCRIPT = """
import numpy as np, lossbench
from torch import nn
from helpers import width
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width()), nn.ReLU(), nn.Linear(width(), 3))
    def forward(self, images):
        return self.layers(images)

rng = np.random.default_rng(0)
labels = np.arange(90) % 3
images = rng.integers(0, 60, (90, 8, 8)).astype(np.uint8)
images[np.arange(90), labels * 2] += 120
print("begun")
found = lossbench.compare(
    model=Net, losses={"ce": "cross_entropy", "mine": lambda logits, target: 2 * F.cross_entropy(logits, target)},
    train=(images[:60], labels[:60]), test=(images[60:], labels[60:]), task="classification", metric="accuracy",
    margin=0.05, seeds=2, recipe={"epochs": 3, "batch_size": 16, "optimizer": {"learning_rate": 0.01}},
)
print(found)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once_and_its_modules_are_watched(here: Path) -> None:
    (here / "mine.py").write_text(SCRIPT)
    (here / "helpers.py").write_text("def width():\n    return 16\n")

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "mine.py"], capture_output=True, text=True, check=False, timeout=240,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("begun") == 1
        return done.stdout

    assert "4 replicates to train" in run()
    assert "all 4 trainings are done" in run()
    (here / "helpers.py").write_text("def width():\n    return 24\n")
    assert "4 replicates to train" in run()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_test_split_of_one_sample_is_reported(inline: Path) -> None:
    random = np.random.default_rng(0)
    splits = {
        name: (random.integers(0, 256, (count, 1, 8, 8), np.uint8), np.arange(count) % 2)
        for name, count in (("train", 12), ("validation", 4), ("test", 1))
    }
    found = lossbench.compare(
        model="simple_cnn", losses={"ce": "cross_entropy", "focal": "focal"}, task="classification", metric="accuracy",
        margin=0.01, seeds=2, recipe={"epochs": 1, "batch_size": 4}, classes=["a", "b"], **splits,
    )  # fmt: skip
    assert len(found.verdicts) == 1
