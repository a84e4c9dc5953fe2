"""Names by import path: the user's own code, and other packages', from params.yaml alone."""

import hashlib
import json
import random
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, stage, tiny_params, write_params
from law_cases import each
from test_execution import filled, load, study_params

from lossbench.checking import check, check_declared
from lossbench.data.dataset import Dataset
from lossbench.errors import UserError
from lossbench.execution.identity import Identity
from lossbench.losses import LossContext, build
from lossbench.models.base import build as build_model
from lossbench.models.base import check as check_model
from lossbench.models.weights import load_weights
from lossbench.params import Params, parse_params
from lossbench.plugins import load_object, use_code
from lossbench.recipe import Network
from lossbench.tasks.base import task_for
from lossbench.training.interruption import ending_on_sigterm
from lossbench.training.member import Member
from lossbench.trial import try_experiment

CONTEXT = LossContext(classes=3)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own modules, importable."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    use_code(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]


def test_a_function_and_a_class_are_losses(code: Path) -> None:
    (code / "mine.py").write_text(
        "import torch\n"
        "def flat(logits, target, *, times=1.0):\n"
        "    return times * torch.nn.functional.cross_entropy(logits, target)\n"
        "class Kept(torch.nn.Module):\n"
        "    def __init__(self, times=1.0):\n"
        "        super().__init__()\n"
        "        self.times = times\n"
        "    def forward(self, logits, target):\n"
        "        return flat(logits, target, times=self.times)\n"
    )
    logits, target = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    expected = 2 * torch.nn.functional.cross_entropy(logits, target)
    for name in ("mine:flat", "mine:Kept"):
        loss = build({"name": name, "times": 2.0}, CONTEXT)
        torch.testing.assert_close(loss(logits, target), expected)
        assert loss.parameters_stated()["times"] == 2.0
    mixed = build({"sum": {"mine:flat": 1.0, "cross_entropy": 1.0}}, CONTEXT)
    torch.testing.assert_close(mixed(logits, target), expected)
    torch.testing.assert_close(
        build({"name": "torch.nn:CrossEntropyLoss"}, CONTEXT)(logits, target), expected / 2
    )


def test_a_function_of_any_keywords_is_given_those_of_params(code: Path) -> None:
    (code / "mine_any.py").write_text(
        "def scaled(by):\n    def wrapper(*args, **given):\n        return by(*args, **given)\n    return wrapper\n"
        "@scaled\ndef loss(logits, target, gamma=1.0):\n    return logits.sum() * gamma\n"
    )
    made = build({"name": "mine_any:loss", "gamma": 2.0}, CONTEXT)
    assert made(torch.ones(2, 3), torch.zeros(2, dtype=torch.long)).item() == 12


def test_what_is_registered_as_the_pages_say_is_a_module_of_ones_own_as_well(code: Path) -> None:
    """Copied from docs/new-task.md, new-loss.md and new-model.md, whose classes and functions are."""
    for page, name in (
        ("new-task", "ordinal:Ordinal"),
        ("new-loss", "mine:TemperedCrossEntropy"),
        ("new-model", "mlp:mlp"),
    ):
        block = re.search(
            r"```python\n(# lossbench/.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL
        )
        assert block is not None
        module, _, thing = name.partition(":")
        (code / f"mine_{module}.py").write_text(block[1])
        assert callable(load_object(f"mine_{module}:{thing}", "key"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello world" * 100, "holds no state dict: KeyError"),
        (b"", "holds no state dict: EOFError"),
        ({1: torch.zeros(2)}, "holds no state dict: name → tensor"),
        (torch.nn.Linear(1, 1), "holds no state dict: UnpicklingError"),
    ],
    ids=["text", "empty", "numbers for names", "a module"],
)
def test_a_file_of_weights_may_hold_anything(content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(content, file)
    if isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        load_weights(file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "given", [{"weights_file": None, "sha256": None}, {"weights_file": "w.pt", "sha256": 12}]
)
def test_a_file_of_weights_and_its_hash_are_text(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'key\.(weights_file|sha256)' is (None|12); allowed: text"):
        check_model(Network(name="torch.nn:Linear", **given), "key")


def test_a_loss_that_takes_an_ignored_value_is_told_the_datas() -> None:
    loss = build({"name": "torch.nn:CrossEntropyLoss"}, LossContext(classes=3, ignore_index=255))
    target = torch.tensor([[0, 255], [2, 1]])
    assert torch.isfinite(loss(torch.randn(2, 3, 2), target))


@pytest.mark.parametrize("name", ["torch.nn:CrossEntropyLoss", "torch.nn.functional:cross_entropy"])
def test_a_list_where_a_loss_takes_a_tensor_is_one_and_moves_with_it(name: str) -> None:
    loss = build({"name": name, "weight": [1, 0.5, 2.0]}, CONTEXT)
    logits, target = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    expected = torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor([1, 0.5, 2.0]))
    torch.testing.assert_close(loss(logits, target), expected)
    assert loss.parameters_stated()["weight"] == [1, 0.5, 2.0]
    moved = loss.to("meta")
    assert moved(logits.to("meta"), target.to("meta")).device.type == "meta"
    with pytest.raises(UserError, match="weight"):
        build({"name": "torch.nn:CrossEntropyLoss", "weight": ["a"]}, CONTEXT)


def test_in_a_sum_a_foreign_loss_sees_what_it_sees_alone() -> None:
    """Targets that do not count too, and a distribution, whatever the other parts call it."""
    logits, target = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    target[:, 1] = 255
    context = LossContext(classes=3, ignore_index=255)
    foreign = {"name": "torch.nn:CrossEntropyLoss"}
    alone = build(foreign, context)(logits, target)
    both = build({"sum": {"dice": 1.0, "mine": foreign}}, context)(logits, target)
    torch.testing.assert_close(both, build({"name": "dice"}, context)(logits, target) + alone)
    torch.testing.assert_close(
        build({"sum": {"torch.nn:CrossEntropyLoss": 1.0}}, context)(logits, target), alone
    )
    soft, own = logits.flip(0).softmax(1), {"name": "dice", "labels": "exclusive"}
    both = build({"sum": {"dice": own, "mine": foreign}}, CONTEXT)(logits, soft)
    alone = build(foreign, CONTEXT)(logits, soft)
    torch.testing.assert_close(both, build(own, CONTEXT)(logits, soft) + alone)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("mine", {}, "losses.x.name is 'mine'; did you mean"),
        ("mine:", {}, "allowed: one of our names, or module:Object"),
        ("nowhere:Loss", {}, "there is no module 'nowhere'; allowed: a module of your 'code' folder"),
        ("mine:Los", {}, "there is no 'Los' in it; did you mean 'Loss'?"),
        ("mine:Loss", {"gama": 1.0}, "unknown key 'losses.x.gama'; did you mean 'gamma'?"),
        ("mine:flat", {"gama": 1.0}, "losses.x.gama is no parameter of mine:flat"),
        ("mine:number", {}, "a int; allowed: a class or a function"),
        ("mine:Broken", {}, "mine:Broken raised ValueError (mine.py, line 9): no"),
        ("broken:x", {}, "whose module raised SyntaxError"),
        ("lacking:x", {}, "whose module needs 'not_there', which is not installed"),
    ],
)
def test_a_name_that_leads_nowhere_is_said_in_one_sentence(
    code: Path, name: str, given: dict[str, Any], said: str
) -> None:
    (code / "mine.py").write_text(
        "number = 3\n"
        "def flat(logits, target):\n    return logits.sum()\n"
        "class Loss:\n    def __init__(self, gamma=1.0):\n        self.gamma = gamma\n"
        "class Broken:\n    def __init__(self):\n        raise ValueError('no')\n"
    )
    (code / "broken.py").write_text("def (")
    (code / "lacking.py").write_text("import not_there")
    with pytest.raises(UserError) as refused:
        build({"name": name, **given}, CONTEXT, "losses.x")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@each(
    ("source", "said"),
    [
        ("raise KeyboardInterrupt", r"KeyboardInterrupt \(mine_end\.py, line 1\) \(it is imported"),
        ("import sys\nsys.exit('no data')", r"SystemExit \(mine_end\.py, line 2\): no data \(it is imported"),
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['x'])",
            r"SystemExit \(mine_end\.py, line 2\): 2",
        ),
        (
            "import pytest\npytest.importorskip('nowhere')",
            r"Skipped \(mine_end\.py, line 2\): could not import",
        ),
        ("class End(BaseException):\n    pass\nraise End", r"End \(mine_end\.py, line 3\) \(it is imported"),
        ("import json\njson.loads('{')", r"JSONDecodeError \(mine_end\.py, line 2\): Expecting"),
        ("def (", "SyntaxError: invalid syntax"),
    ],
)
def test_whatever_a_module_raises_when_imported_is_a_sentence_with_its_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's path has our name in it."""
    (tmp_path / "lossbench/plugins").mkdir(parents=True)
    (tmp_path / "lossbench/plugins/mine_end.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "lossbench/plugins")
    with pytest.raises(UserError, match=f"'losses.x.name' is 'mine_end:x', whose module raised {said}"):
        build({"name": "mine_end:x"}, CONTEXT, "losses.x")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_a_run_while_a_module_is_imported_is_not_taken_for_the_module(
    number: int, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code / "mine_slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), number)\ntime.sleep(9)\n"
    )
    monkeypatch.setattr("builtins.number", number, raising=False)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            pytest.raises((KeyboardInterrupt, SystemExit)),
            ending_on_sigterm() if number == signal.SIGTERM else nullcontext(),
        ):
            build({"name": "mine_slow:x"}, CONTEXT)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("what", ["model", "augmentation", "metric"])
def test_own_code_that_ends_the_process_as_it_runs_is_refused(
    what: str, code: Path, trained_study: Path
) -> None:
    (code / "mine_odd.py").write_text(
        "class End(BaseException):\n    pass\ndef own(*_):\n    raise End('no')\n"
    )
    with pytest.raises(
        UserError, match=r"mine_odd:own'? (raised End \(mine_odd\.py, line 4\):|fails: End) no"
    ):
        tried(what, trained_study)


def namesake_study(root: Path, file: str, source: str = "x = 1\n") -> Params:
    """A study whose code folder has a file."""
    (root / "plugins" / file).parent.mkdir(parents=True, exist_ok=True)
    (root / "plugins" / file).write_text(source)
    return parse_params(study_params(code="plugins"))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "random.py",
            "'code' has plugins/random.py, but 'random' is a module of Python's own; allowed: another",
        ),
        (
            "queue/__init__.py",
            "'code' has plugins/queue/__init__.py, but 'queue' is a module of Python's own",
        ),
        (
            "numpy.py",
            "'code' has plugins/numpy.py, but 'numpy' is imported from .*numpy/__init__.py; allowed: another",
        ),
        ("lossbench.py", "'code' has plugins/lossbench.py, but 'lossbench' is imported from"),
    ],
)
def test_a_module_whose_name_another_has_is_refused(file: str, said: str, code: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        check_declared(namesake_study(tmp_path, file), study=tmp_path)


@pytest.mark.parametrize(
    ("imports", "told"),
    [
        ("import pkgutil\n[importlib.import_module(f'{__name__}.{one.name}') for one in pkgutil.iter_modules(__path__)]", True),
        ("name = 'pa' + 'rts'\nimportlib.import_module(f'{__name__}.{name}')", True),
        ("importlib.import_module('.parts', __name__)", False), ("from . import parts", False),
        ("import sys\nfrom . import parts\nsys.modules[__name__ + '_other'] = parts", False),
    ],
)  # fmt: skip
def test_a_module_that_no_key_holds_is_told(
    imports: str, told: bool, code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"mine_{abs(hash(imports))}"  # imported once a process
    source = f"import importlib\n{imports}\ndef own(logits, target):\n    return logits.sum()\n"
    study = namesake_study(tmp_path, f"{name}/__init__.py", source)
    (tmp_path / "plugins" / name / "parts.py").write_text("x = 1\n")
    losses = {**study.losses, next(iter(study.losses)): {"name": f"{name}:own"}}
    check_declared(study.model_copy(update={"losses": losses}), study=tmp_path)
    note = f"note: '{name}.parts' of your code is imported by a name that is made at run time"
    assert (note in capfd.readouterr().out) == told


@pytest.mark.parametrize(
    "file", ["mine_x.py", "sub/random.py", "random.txt", "a-b.py", "a.b.py", "__main__.py", "test.py"]
)
def test_other_names_are_the_users(file: str, code: Path, tmp_path: Path) -> None:
    check_declared(namesake_study(tmp_path, file), study=tmp_path)


def test_a_loss_that_returns_no_scalar_is_refused(code: Path) -> None:
    (code / "mine.py").write_text(
        "def each(logits, target):\n    return logits.sum(1)\ndef none(logits, target):\n    return 1.0\n"
    )
    logits, target = torch.randn(4, 3), torch.randint(3, (4,))
    for name, said in (("mine:each", r"a tensor of shape \(4,\)"), ("mine:none", "a float")):
        with pytest.raises(UserError, match=f"loss '{name}' returns {said}; allowed: a scalar tensor"):
            build({"name": name}, CONTEXT)(logits, target)


@pytest.mark.parametrize(
    ("network", "shape", "classes"),
    [
        ({"name": "segmentation_models_pytorch:Unet", "encoder_name": "resnet18", "encoder_weights": None,
          "in_channels": "{channels}", "classes": "{outputs}"}, (1, 32, 32), 3),
        ({"name": "torchvision.models.segmentation:lraspp_mobilenet_v3_large", "weights": None,
          "weights_backbone": None, "num_classes": "{outputs}"}, (3, 32, 32), 3),
        ({"name": "timm:create_model", "model_name": "resnet10t", "num_classes": "{outputs}",
          "in_chans": "{channels}"}, (1, 32, 32), None),
        ({"name": "monai.networks.nets:UNet", "spatial_dims": 2, "in_channels": "{channels}",
          "out_channels": "{outputs}", "channels": [4, 8], "strides": [2]}, (1, 32, 32), 3),
        ({"name": "example_model:small_net", "width": 4}, (1, 8, 8), None),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_any_module_class_or_factory_is_a_model(
    network: dict[str, Any], shape: tuple[int, ...], classes: int | None
) -> None:
    use_code(ROOT / "plugins")
    model = build_model(Network(**network), shape, 3)
    made = model.eval()(torch.zeros(2, *shape))
    assert made.shape == ((2, 3) if classes is None else (2, 3, *shape[1:]))


def test_a_foreign_model_begins_with_a_files_weights(tmp_path: Path) -> None:
    use_code(ROOT / "plugins")
    first = build_model(Network(name="example_model:small_net", width=4), (1, 8, 8), 3)
    torch.save(first.network.state_dict(), tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    spec = {
        "name": "example_model:small_net",
        "width": 4,
        "weights_file": str(tmp_path / "w.pt"),
        "sha256": digest,
    }
    again = build_model(Network(**spec), (1, 8, 8), 3)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="has"):
        build_model(Network(**{**spec, "sha256": "0" * 64}), (1, 8, 8), 3)


def test_a_model_that_returns_a_tuple_is_told(code: Path) -> None:
    (code / "mine_net.py").write_text(
        "from torch import nn\nclass Two(nn.Module):\n    def forward(self, x):\n        return x, x\n"
    )
    model = build_model(Network(name="mine_net:Two"), (1, 8, 8), 3)
    with pytest.raises(UserError, match="model 'mine_net:Two' returns a tuple; allowed: a tensor"):
        model(torch.zeros(1, 1, 8, 8))


def test_a_metric_of_ones_own_scores_what_the_task_decided(code: Path) -> None:
    (code / "mine_metric.py").write_text(
        "def wrong(decisions, targets):\n    return (decisions != targets).mean()\nwrong.higher_is_better = False\n"
    )
    task = task_for("classification", "mine_metric:wrong")
    assert [one.higher_is_better for one in task.metrics if one.name == "mine_metric:wrong"] == [False]


def own_study(root: Path) -> dict[str, Any]:
    content = study_params(code=str(ROOT / "plugins"), seeds=[0, 1])
    content["losses"]["own"] = {"name": "example_loss:asymmetric_focal", "gamma": 1.0}
    content["arms"]["digits-own"] = {"experiment": "digits", "dataset": "digits", "loss": "own"}
    content["experiments"]["digits"]["model"] = {"name": "example_model:small_net", "width": 4}
    return content


def test_a_study_of_ones_own_loss_and_model_trains(tmp_path: Path) -> None:
    from conftest import train_study

    root = tmp_path / "s"
    train_study(root, own_study(root))
    check(parse_params(load(root)))
    assert (root / "models/digits/digits-own/seed-1.safetensors").is_file()
    assert filled(root).trained == []


OWN = {
    "mine_task": "from lossbench.tasks.classification import Classification\nclass Own(Classification):\n"
    "    name = 'mine'\n",
    "mine_metric": "def own(decisions, targets):\n    return float((decisions == targets).mean())\n",
    "mine_source": "from lossbench.data.sources.digits import Digits\nclass Own(Digits):\n    pass\n",
    "mine_model": "import math\nfrom torch import nn\ndef own(input_shape, outputs):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs))\n",
    "mine_loss": "from torch.nn.functional import cross_entropy as own\n",
    "mine_augmentation": "def own(inputs, targets, generator):\n    return inputs.flip(-1), targets\n",
}
"""A module for each kind of name."""


@pytest.mark.slow
def test_names_of_ones_own_lead_through_report_record_and_every_answer(tmp_path: Path, code: Path) -> None:
    """In processes that have not checked: they must find the code by themselves."""
    from conftest import train_study
    from PIL import Image

    from lossbench.retraining.gate import decide
    from lossbench.retraining.scoring import contender

    for name, source in OWN.items():
        (code / f"{name}.py").write_text(source)
    content = study_params(code=str(code), seeds=[0, 1], hypotheses={})
    content["datasets"]["digits"]["source"] = "mine_source:Own"
    content["experiments"]["digits"] |= {
        "task": "mine_task:Own",
        "metric": "mine_metric:own",
        "model": {"name": "mine_model:own"},
    }
    content["experiments"]["digits"]["recipe"] |= {"augmentation": {"own": "mine_augmentation:own"}}
    content["losses"]["own"] = {"name": "mine_loss:own"}
    content["arms"]["digits-own"] = {"experiment": "digits", "dataset": "digits", "loss": "own"}
    root = tmp_path / "s"
    train_study(root, content)
    check(parse_params(load(root)))
    assert stage(root, "validate", "digits").returncode == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "0.png")
    for words in (
        ["report"],
        ["track"],
        ["summary"],
        ["predict", "--arm", "digits-own", "0.png"],
        ["export", "--arm", "digits-own", "--onnx", "own.onnx"],
    ):
        ended = stage(root, *words)
        assert ended.returncode == 0, (words, ended.stderr)
    described = json.loads((root / "models/digits/digits-own/arm.json").read_bytes())
    assert described["task"] == "mine_task:Own"
    data, params = Dataset.open(root / "data/digits"), parse_params(load(root))
    weights = root / "models/digits/digits-own/seed-0.safetensors"
    asked = contender("own", described, weights, data.info, "mine_metric:own")
    assert "mine_metric:own" in decide(asked, None, data, "mine_metric:own", params.retraining).reason


def test_an_edit_of_ones_own_metric_scores_anew_and_trains_nothing(code: Path, trained_study: Path) -> None:
    """Floors too are scored anew: whether an arm was trained at all is said by them."""
    metric = code / "mine_metric.py"

    def keys(named: str, source: str) -> dict[str, object]:
        metric.write_text(source)
        content = study_params(code=str(code))
        content["experiments"]["digits"]["metric"] = named
        params = parse_params(content)
        found = Identity(params, "digits-focal", trained_study)
        recipe = params.experiments["digits"].recipe
        return {
            "training": found.training(Member(0), recipe),
            "scores": found.scores(""),
            "floors": found.task,
        }

    plain = keys("accuracy", OWN["mine_metric"])
    first, edited, other = (
        keys("mine_metric:own", OWN["mine_metric"]),
        keys("mine_metric:own", OWN["mine_metric"].replace("==", "!=")),
        keys("mine_metric:other", OWN["mine_metric"].replace("==", "!=")),
    )
    assert len({one["training"] for one in (plain, first, edited, other)}) == 1
    for of in ("scores", "floors"):
        assert len({str(one[of]) for one in (plain, first, edited, other)}) == 4, of


def test_a_file_that_params_name_to_ones_own_code_is_part_of_the_key(
    code: Path, trained_study: Path, tmp_path: Path
) -> None:
    """``timm:create_model`` takes a ``checkpoint_path``; who replaces that file trains anew."""
    content = study_params(code=str(code))
    content["losses"]["focal"] = {"sum": {"mine:own": {"weight": 1.0, "tables": ["costs.csv"]}, "focal": 1.0}}
    content["experiments"]["digits"]["model"] = {
        "name": "timm:create_model",
        "model_name": "resnet10t",
        "checkpoint_path": str(tmp_path / "r.pt"),
    }
    params = parse_params(content)

    def digests() -> list[str]:
        return [
            Identity(params, f"digits-{one}", trained_study).code.digest for one in ("cross_entropy", "focal")
        ]

    (code / "mine.py").touch()
    found = [digests()]
    for file in (code / "costs.csv", tmp_path / "r.pt"):
        for content in ("1", "22"):
            file.write_text(content)
            found.append(digests())
    plain, weighted = zip(*found, strict=True)
    assert len(set(weighted)) == 5
    assert len(set(plain)) == 3


def test_a_file_that_params_name_to_an_own_model_or_task_is_part_of_the_scores_key_wherever_it_lies(
    code: Path, tmp_path: Path
) -> None:
    content = study_params(code=str(code))
    (code / "mine.py").touch()
    found = []
    for block in ("model", "task"):
        told = parse_params(content)
        own = {**content["experiments"]["digits"], block: {"name": "mine:own", "table": "t.json"}}
        params = told.model_copy(
            update={"experiments": {**told.experiments, "digits": type(told.experiments["digits"])(**own)}}
        )
        for file in (tmp_path / "t.json", code / "t.json"):  # of the study, and of its code
            for text in ("1", "22"):
                file.write_text(text)
                one = Identity(params, "digits-focal", tmp_path)
                found.append((one.code.digest, one.scoring.digest))
            file.write_text("3")
    for digests in zip(*found, strict=True):
        assert len(set(digests)) == 8


def test_an_edit_of_ones_own_loss_trains_its_arm_alone(tmp_path: Path, trained_study: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for name in ("example_loss.py", "example_model.py"):
        (tmp_path / "plugins" / name).write_bytes((ROOT / "plugins" / name).read_bytes())
    (tmp_path / "data").symlink_to(trained_study / "data")
    params = parse_params({**own_study(tmp_path), "code": "plugins"})
    before = {arm: Identity(params, arm, tmp_path).code.digest for arm in params.arms}
    with (tmp_path / "plugins/example_loss.py").open("a") as file:
        file.write("EDITED = True\n")
    after = {arm: Identity(params, arm, tmp_path).code.digest for arm in params.arms}
    assert {arm for arm in before if before[arm] != after[arm]} == {"digits-own"}


def test_an_augmentation_of_ones_own_draws_from_the_replicates_generator(code: Path, tmp_path: Path) -> None:
    from training_cases import digest, labels_dataset, setting

    from lossbench.training.fitting import fit
    from lossbench.training.member import Member

    (code / "mine_changes.py").write_text(
        "import torch\n"
        "def brighter(inputs, targets, generator):\n"
        "    return inputs + torch.rand((len(inputs), 1, 1, 1), generator=generator), targets\n"
        "def broken(inputs, targets, generator):\n"
        "    return inputs\n"
    )
    data = labels_dataset(tmp_path / "data")
    plain = digest(fit(setting(data), [Member(0)])[0])
    own = [
        digest(fit(setting(data, augmentation={"own": "mine_changes:brighter"}), [Member(0)])[0])
        for _ in "ab"
    ]
    assert own[0] == own[1] != plain
    with pytest.raises(UserError, match="mine_changes:broken returns Tensor; allowed: "):
        fit(setting(data, augmentation={"own": "mine_changes:broken"}), [Member(0)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "model"),
    [
        ("scenes", {"name": "segmentation_models_pytorch:Unet", "encoder_name": "resnet18", "encoder_weights": None,
                    "in_channels": "{channels}", "classes": "{outputs}"}),
        ("scenes", {"name": "torchvision.models.segmentation:lraspp_mobilenet_v3_large", "weights": None,
                    "weights_backbone": None, "num_classes": "{outputs}"}),
        ("digits", {"name": "timm:create_model", "model_name": "resnet10t", "num_classes": "{outputs}",
                    "in_chans": "{channels}"}),
        ("scenes", {"name": "monai.networks.nets:UNet", "spatial_dims": 2, "in_channels": "{channels}",
                    "out_channels": "{outputs}", "channels": [4, 8], "strides": [2]}),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)  # fmt: skip
def test_networks_of_other_packages_train_in_a_study_from_params_alone(
    experiment: str, model: dict[str, Any], tmp_path: Path
) -> None:
    from conftest import tiny_params, train_study

    content = tiny_params()
    other = "scenes" if experiment == "digits" else "digits"
    for block in ("experiments", "datasets"):
        content[block].pop(other)
    content["arms"] = {name: arm for name, arm in content["arms"].items() if arm["experiment"] == experiment}
    content["hypotheses"] = {}
    content["experiments"][experiment]["model"] = model
    content["experiments"][experiment]["recipe"] = {"epochs": 1, "batch_size": 8}
    content["seeds"] = [0]
    if "torchvision" in model["name"]:  # it wants three channels
        (tmp_path / "plugins").mkdir()
        (tmp_path / "plugins/coloured.py").write_text(
            "from torch import nn\nfrom torchvision.models.segmentation import lraspp_mobilenet_v3_large\n"
            "class Coloured(nn.Module):\n"
            "    def __init__(self, **given):\n        super().__init__()\n"
            "        self.network = lraspp_mobilenet_v3_large(**given)\n"
            "    def forward(self, images):\n        return self.network(images.expand(-1, 3, -1, -1))\n"
        )
        content["code"] = str(tmp_path / "plugins")
        content["experiments"][experiment]["model"] = {**model, "name": "coloured:Coloured"}
        use_code(tmp_path / "plugins")
    train_study(tmp_path / "s", content)
    assert len(list((tmp_path / "s/models").glob("*/*/seed-0.safetensors"))) == 2


def test_a_stage_finds_a_source_among_the_users_own_code(tmp_path: Path) -> None:
    content = tiny_params()
    content["datasets"] = {"digits": {"source": "mine:Own", "path": "params.yaml", "subset": 64}}
    content["experiments"] = {"digits": content["experiments"]["digits"]}
    content["arms"] = {name: arm for name, arm in content["arms"].items() if arm["dataset"] == "digits"}
    write_params(tmp_path, content)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/mine.py").write_text(
        "from lossbench.data.sources.digits import Digits\nclass Own(Digits):\n    pass\n"
    )
    run = stage(tmp_path, "fetch", "digits")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "data/digits/train/inputs.npy").is_file()


NET = (
    "import numpy as np, torch\nfrom torch import nn\n"
    "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.last = nn.Linear(64, 10)\n"
)
FORWARD = "    def forward(self, x):\n        return self.last(x.flatten(1))\n"
LOSS = "import numpy as np, torch\nfrom torch import nn\nfrom torch.nn.functional import cross_entropy\n"
STATE = "    def forward(self, logits, target):\n        self.n += 1\n        return cross_entropy(logits, target) * self.n\n"
ODD: dict[str, tuple[str, str, str]] = {
    # what: (kind, source, sentence)
    "a loss that remembers": (
        "loss", f"{LOSS}class own(nn.Module):\n    n = 1.0\n{STATE}", "own' is .*, then .* for the same logits"),
    "an object that remembers": (
        "loss", f"{LOSS}class Kept(nn.Module):\n    n = 1.0\n{STATE}own = Kept()\n", "it remembers its calls"),
    "a loss that draws from NumPy": (
        "loss", f"{LOSS}def own(logits, target):\n    return cross_entropy(logits * np.random.rand(), target)\n",
        "or draws from Python's or NumPy's generator"),
    "a loss with a weight": (
        "loss", f"{LOSS}class own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.centre = nn.Parameter(torch.zeros(10))\n"
        "    def forward(self, logits, target):\n        return cross_entropy(logits + self.centre, target)\n",
        r"has a weight of its own \('centre'\), which nothing would train"),
    "a loss that is NaN": (
        "loss", f"{LOSS}def own(logits, target):\n    return cross_entropy(logits, target) * (logits.std() * -1).log()\n",
        "'own' is nan on random logits, with no finite gradient"),
    "a loss that leads to itself alone": (
        "loss", f"{LOSS}def own(logits, target):\n"
        "    return torch.tensor(cross_entropy(logits, target).item(), requires_grad=True)\n",
        "no gradient leads from what loss 'own' returns to the logits"),
    "a loss that raises what torch does not": (
        "loss", f"{LOSS}def own(logits, target):\n    return cross_entropy(logits, target) / 0 * (1 / 0)\n",
        "cannot show to loss 'own' beside its targets: ZeroDivisionError"),
    "a network made once": (
        "model", f"{NET}{FORWARD}made = Net()\ndef own():\n    return made\n", "is one network however often it is made"),
    "a network drawn by NumPy": (
        "model", f"{NET}        self.mask = torch.tensor(np.random.rand(64), dtype=torch.float32)\n"
        "    def forward(self, x):\n        return self.last(x.flatten(1) * self.mask)\nown = Net\n",
        "puts out other numbers when it is made again with the same seed"),
    "a network that counts": (
        "model", f"{NET}        self.n = 0\n    def forward(self, x):\n        self.n += self.training\n"
        "        return self.last(x.flatten(1)) * (1 + self.n)\nown = Net\n",
        "predicts otherwise when it is made again and given its kept weights"),
    "a network with a plain list of layers": (
        "model", f"{NET}        self.more = [nn.Linear(64, 64)]\n"
        "    def forward(self, x):\n        return self.last(self.more[0](x.flatten(1)))\nown = Net\n",
        "predicts otherwise when it is made again"),
    "a network seeded in its factory": (
        "model", f"{NET}{FORWARD}def own():\n    torch.manual_seed(0)\n    return Net()\n", "seeds torch's generator itself"),
    "a network of a seeded NumPy": (
        "model", f"{NET}{FORWARD}def own():\n    np.random.seed(0)\n    made = Net()\n"
        "    made.last.weight.data = torch.tensor(np.random.randn(10, 64)).float()\n    return made\n",
        "seeds NumPy's generator itself"),
    "a network of a seeded Python": (
        "model", f"{NET}{FORWARD}def own():\n    import random\n    random.seed(0)\n    return Net()\n", "seeds Python's generator itself"),
    "a network that seeds as it runs": (
        "model", f"{NET}    def forward(self, x):\n        torch.manual_seed(0)\n"
        "        return self.last(torch.dropout(x.flatten(1), 0.5, self.training))\nown = Net\n", "seeds torch's generator itself"),
    "a network of complex weights": (
        "model", f"{NET}        self.more = nn.Linear(64, 64, dtype=torch.complex64)\n"
        "    def forward(self, x):\n        return self.last(self.more(x.flatten(1).to(torch.complex64)).real)\nown = Net\n",
        r"has a weight with complex64 numbers \('network.more.weight'\), which optimizer 'adam' cannot train; allowed"),
    "a network of sparse gradients": (
        "model", f"{NET}        self.more = nn.Embedding(9, 10, sparse=True)\n"
        "    def forward(self, x):\n        return self.last(x.flatten(1)) + self.more(x.flatten(1).long().clamp(0, 8)).sum(1)\nown = Net\n",
        r"has a weight with sparse gradients \('network.more.weight'\), which optimizer 'adam' cannot train; allowed"),
    "a network of frozen weights alone": (
        "model", f"{NET}        self.requires_grad_(False)\n{FORWARD}own = Net\n", "cannot learn: no gradient leads"),
    "a loss that seeds": (
        "loss", f"{LOSS}def own(logits, target):\n    torch.manual_seed(0)\n    return cross_entropy(logits, target)\n",
        "loss 'own' seeds torch's generator"),
    "a loss that changes its logits": (
        "loss", f"{LOSS}def own(logits, target):\n    logits.sub_(1.0)\n    return cross_entropy(logits, target)\n",
        "loss 'own' changes its logits in place"),
    "a loss that changes its targets": (
        "loss", f"{LOSS}def own(logits, target):\n    return cross_entropy(logits, target.clamp_(max=1))\n",
        "loss 'own' changes its targets in place"),
    "an augmentation that seeds": (
        "augmentation", "import torch\ndef own(x, t, g):\n    torch.manual_seed(0)\n    return x + torch.rand_like(x), t\n",
        "mine_odd:own seeds torch's generator"),
    "a metric that changes the targets": (
        "metric", "def own(d, t):\n    t[:] = 0\n    return (d == t).mean()\n", "mine_odd:own raised ValueError: .* read-only"),
    "a task that changes the targets": (
        "task", "from lossbench.tasks.classification import Classification\nclass own(Classification):\n"
        "    def validate(self, digests, targets):\n        targets.clamp_(max=1)\n        return super().validate(digests, targets)\n",
        "changes the targets in place"),
    "a network that keeps no tensor": (
        "model", f"{NET}{FORWARD}    def get_extra_state(self):\n        return {{}}\nown = Net\n",
        "keeps 'network._extra_state', which is no tensor"),
    "a network that puts out NaN": (
        "model", f"{NET}    def forward(self, x):\n        return self.last(x.flatten(1)) * float('nan')\nown = Net\n",
        "puts out NaN before any training"),
    "an augmentation that returns inputs alone": (
        "augmentation", "def own(x, t, g):\n    return x\n", "mine_odd:own returns a Tensor; allowed"),
    "an augmentation of another dtype": (
        "augmentation", "def own(x, t, g):\n    return x.double(), t\n", "returns inputs of torch.float64"),
    "an augmentation that draws by itself": (
        "augmentation", "import numpy as np\ndef own(x, t, g):\n    return x + np.random.rand(), t\n",
        "draws from elsewhere than the generator"),
    "an augmentation that leaves a size that does not fit": (
        "augmentation", "def own(x, t, g):\n    return x[:, :, :1], t\n", "model 'simple_cnn' on samples of 1×1×8 fails"),
    "a metric that raises": (
        "metric", "def own(d, t):\n    raise KeyError('two')\n", "mine_odd:own raised KeyError: 'two'"),
    "a metric that is NaN": (
        "metric", "import numpy as np\ndef own(d, t):\n    return np.corrcoef(d, t)[0, 1]\n",
        "gives nan for a constant prediction"),
    "a metric that draws": (
        "metric", "import random\ndef own(d, t):\n    return random.random()\n", "for the same predictions"),
    "a metric whose way is a word": (
        "metric", "def own(d, t):\n    return (d != t).mean()\nown.higher_is_better = 'lower'\n",
        "has higher_is_better = 'lower'; allowed: true or false"),
    "a task without its methods": (
        "task", "from lossbench.tasks.base import Task\nclass own(Task):\n    name = 'x'\n    kinds = ('label',)\n"
        "    metrics = ()\n    monitor = 'accuracy'\n", "task 'mine_odd:own' fails: .*abstract"),
    "a task whose scores raise": (
        "task", "from lossbench.tasks.classification import Classification\nclass own(Classification):\n"
        "    def score(self, digests, targets):\n        raise OSError('no')\n", "task 'classification' fails: OSError no"),
    "a task without its monitor": (
        "task", "from lossbench.tasks.classification import Classification\nclass own(Classification):\n"
        "    def validate(self, digests, targets):\n        return {}\n", "gives nothing on validation samples"),
}  # fmt: skip


def tried(kind: str, study: Path, **changes: Any) -> None:
    """Try an experiment of which one part is ``mine_odd:own``."""
    content = study_params(hypotheses={}, **changes)
    experiment, own = content["experiments"]["digits"], "mine_odd:own"
    if kind == "loss":
        content["losses"]["own"] = {"name": own}
        content["arms"]["digits-own"] = {"experiment": "digits", "dataset": "digits", "loss": "own"}
    elif kind == "augmentation":
        experiment["recipe"] = experiment["recipe"] | {"augmentation": {"own": own}}
    else:
        experiment[kind] = {"name": own} if kind == "model" else own
    try_experiment("digits", parse_params(content), Dataset.open(study / "data/digits"))


@pytest.mark.parametrize("what", list(ODD))
def test_what_would_fail_or_differ_after_hours_is_said_before_any_training(
    what: str, code: Path, trained_study: Path
) -> None:
    kind, source, said = ODD[what]
    (code / "mine_odd.py").write_text(source)
    with pytest.raises(UserError, match=said) as refused:
        tried(kind, trained_study)
    assert "\n" not in str(refused.value)


GOOD: dict[str, tuple[str, str]] = {
    "a loss with torch's own draws": (
        "loss", f"{LOSS}def own(logits, target):\n    return cross_entropy(logits + torch.randn_like(logits), target)\n"),
    "a loss with a frozen weight": (
        "loss", f"{LOSS}class own(nn.CrossEntropyLoss):\n    def __init__(self):\n        super().__init__(torch.ones(10))\n"),
    "a scripted loss": (
        "loss", f"{LOSS}def plain(logits, target: torch.Tensor):\n    return cross_entropy(logits, target)\n"
        "own = torch.jit.trace(plain, (torch.randn(2, 10), torch.tensor([0, 1])))\n"),
    "a network with dropout and batch norm": (
        "model", "from torch import nn\ndef own():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), "
        "nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 10))\n"),
    "a network that changes its input": (
        "model", f"{NET}    def forward(self, x):\n        return self.last(x.mul_(0.5).flatten(1))\nown = Net\n"),
    "a network that counts in a buffer": (
        "model", f"{NET}        self.register_buffer('n', torch.zeros(()))\n    def forward(self, x):\n"
        "        self.n += self.training\n        return self.last(x.flatten(1)) * (1 + self.n)\nown = Net\n"),
    "a network in half precision": (
        "model", f"{NET}        self.half()\n    def forward(self, x):\n        return self.last(x.flatten(1).half())\nown = Net\n"),
    "an augmentation by its generator": (
        "augmentation", "import torch\ndef own(x, t, g):\n    return x + torch.rand(len(x), 1, 1, 1, generator=g), t\n"),
    "an augmentation in place": (
        "augmentation", "def own(x, t, g):\n    return x.mul_(0.5), t\n"),
    "a network with frozen and whole weights": (
        "model", f"{NET}        self.more = nn.Linear(64, 64).requires_grad_(False)\n"
        "        self.n = nn.Parameter(torch.arange(3), requires_grad=False)\n"
        "    def forward(self, x):\n        return self.last(self.more(x.flatten(1)))\nown = Net\n"),
    "a metric": ("metric", "def own(d, t):\n    return (d == t).mean()\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(GOOD))
def test_what_is_as_it_should_be_is_not_refused(what: str, code: Path, trained_study: Path) -> None:
    kind, source = GOOD[what]
    (code / "mine_odd.py").write_text(source)
    tried(kind, trained_study)


def test_weights_that_are_not_to_be_trained_are_none_for_a_population(
    code: Path, trained_study: Path
) -> None:
    (code / "mine_odd.py").write_text(GOOD["a network with frozen and whole weights"][1])
    with pytest.raises(UserError, match=r"not to be trained \('network.n'\), but 'compute.engine'"):
        tried("model", trained_study, compute={"engine": "population"})


def test_weights_that_no_seed_decides_are_told(
    code: Path, trained_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code / "mine_odd.py").write_text(
        f"{NET}        self.last.weight.data = torch.tensor(np.random.default_rng(0).normal(size=(10, 64))).float()\n"
        f"        self.last.bias.data.zero_()\n{FORWARD}own = Net\n"
    )
    tried("model", trained_study)
    assert "model 'mine_odd:own' on samples of 1×8×8 begins with the same weights whatever the seed" in (
        capsys.readouterr().err
    )


def test_what_is_tried_leaves_all_generators_as_they_were(code: Path, trained_study: Path) -> None:
    (code / "mine_odd.py").write_text(GOOD["a network with dropout and batch norm"][1])
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002  # its
    tried("model", trained_study)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002  # state is what is asked
    assert random.getstate() == before[2]


@pytest.mark.slow
def test_a_module_that_seeds_a_generator_when_imported_decides_no_weights(tmp_path: Path) -> None:
    """The first replicate of a process that imports it would begin with the weights of that seed."""
    from conftest import train_study

    for name, first in (("plain", ""), ("seeding", "torch.manual_seed(0)\n")):
        code = tmp_path / name / "code"
        code.mkdir(parents=True)
        (code / f"mine_{name}.py").write_text(
            f"import math, torch\n{first}def net(input_shape, outputs):\n"
            "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(input_shape), outputs))\n"
        )
        content = study_params(code=str(code), seeds=[5, 6], tuning={"trials": 0})
        content["experiments"]["digits"]["model"] = {"name": f"mine_{name}:net"}
        train_study(tmp_path / name / "study", content)
    plain, seeding = (
        [file.read_bytes() for file in sorted((tmp_path / name / "study/models").rglob("*.safetensors"))]
        for name in ("plain", "seeding")
    )
    assert plain
    assert plain == seeding
