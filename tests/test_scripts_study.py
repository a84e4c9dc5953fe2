"""Own training scripts as experiments: searched, kept, scored and reported like networks of ours."""

import csv
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, train_study, write_params
from law_cases import each
from test_execution import filled, load
from test_scripts import FAMILY, ended

from lossbench.checking import check
from lossbench.errors import GateError, UserError
from lossbench.execution.collect import budgets_of, collect_evaluation, weights_in_models
from lossbench.execution.fill import Arm, Experiment, Filling, arm_flow
from lossbench.execution.inline import InlineExecutor
from lossbench.execution.local import LocalExecutor, where
from lossbench.outs import Outs
from lossbench.params import Params, load_params, parse_params
from lossbench.recipe import Compute
from lossbench.reporting.write import write_report
from lossbench.serving.source import load_model
from lossbench.store import Store
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.record import arm_record

SCRIPT = '''
"""Scores that follow from loss, seed and rate: as a training's would, in no time."""
import argparse, json, pathlib, random
parser = argparse.ArgumentParser()
for name in ("loss", "seed", "lr", "epochs", "out", "data", "gain"):
    parser.add_argument("--" + name)
told = parser.parse_args()
out, noise = pathlib.Path(told.out), random.Random(int(told.seed)).random() / 100
assert not list(out.iterdir()) and (pathlib.Path(told.data) / "dataset.json").is_file()
score = 0.5 + float(told.gain) - abs(float(told.lr) - 0.1) + noise
cost = 1 - score
# HERE
(out / "metrics.json").write_text(json.dumps(metrics))
'''
PLAIN = (
    'metrics = {"test": {"accuracy": score, "cost": cost}, "validation": {"accuracy": score, "cost": cost}}'
)
FULL = (
    PLAIN
    + """
metrics["floors"] = {"constant prediction": {"accuracy": 0.1, "cost": 0.9}}
metrics["per_example"] = {"accuracy": [score - 0.01, score + 0.01] * 5}
rows = "".join(f"{e},train,loss,{1 / e}\\n{e},validation,accuracy,{score}\\n" for e in (1, 2, 3))
(out / "history.csv").write_text("epoch,split,metric,value\\n" + rows)
"""
)
COMMAND = [
    "python", "scripts/train.py", "--loss", "{loss}", "--seed", "{seed}", "--lr", "{learning_rate}", "--epochs",
    "{epochs}", "--gain", "{gain}", "--out", "{out}", "--data", "{data}",
]  # fmt: skip


def content(**experiment: Any) -> dict[str, Any]:
    """Params of a study whose replicates a script trains."""
    block = {
        "task": "command", "command": COMMAND, "metrics": {"accuracy": "higher", "cost": "lower"}, "dataset": "digits",
        "recipe": {"epochs": 3, "optimizer": {"learning_rate": 0.1}}, "metric": "accuracy", "margin": 0.01, "timeout": 60,
    }  # fmt: skip
    return {
        "code": "scripts",
        "datasets": {"digits": {"source": "digits", "path": "requirements.lock", "subset": 32}},
        "experiments": {"own": block | experiment},
        "losses": {"plain": {"gain": 0.0}, "fine": {"gain": 0.1}},
        "arms": {
            f"own-{loss}": {"experiment": "own", "dataset": "digits", "loss": loss}
            for loss in ("plain", "fine")
        },
        "seeds": [0, 1, 2, 3, 4, 5],
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": "plain"},
    }


def write_script(root: Path, body: str) -> None:
    (root / "scripts").mkdir(parents=True, exist_ok=True)
    (root / "scripts" / "train.py").write_text(SCRIPT.replace("# HERE", body))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose script says all that can be said, trained and evaluated."""
    root = tmp_path_factory.mktemp("full") / "s"
    write_script(root, FULL)
    train_study(root, content())
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
    return root


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The study's data and store, under another script."""
    root = tmp_path / "s"
    shutil.copytree(data, root)
    return root


def failures(root: Path, body: str, **experiment: Any) -> str:
    write_script(root, body)
    write_params(root, content(**experiment) | {"seeds": [0, 1]})
    with pytest.raises(GateError) as error:
        filled(root)
    return str(error.value)


def test_scores_verdicts_and_curves_are_the_scripts(data: Path) -> None:
    rows = list(csv.DictReader((data / "reports/evaluation/own/scores.csv").open()))
    assert {row["metric"] for row in rows} == {"accuracy", "cost"}
    assert len(rows) == 2 * 2 * 6
    verdicts = json.loads((data / "reports/verdicts.json").read_bytes())["verdicts"]
    assert [one["verdict"] for one in verdicts] == ["better"]
    assert verdicts[0]["difference"] == pytest.approx(0.1)
    described = json.loads((data / "models/own/own-fine/arm.json").read_bytes())
    assert described["loss_parameters"] == {"gain": 0.1}
    assert described["recipe"] == {"epochs": 3, "optimizer": {"learning_rate": 0.1, "weight_decay": 0.0}}
    floors = (data / "reports/evaluation/own/floors.csv").read_text().splitlines()
    assert floors[1:] == ["constant prediction,accuracy,0.1", "constant prediction,cost,0.9"]
    history = list(csv.DictReader((data / "models/own/own-fine/history.csv").open()))
    # what it told epoch by epoch, and the validation cost of the end
    assert len(history) == 6 * (3 * 2 + 1)
    page = (data / "reports/index.html").read_text()
    assert "python scripts/train.py" in page
    assert "what your script was told for it stands in <code>reports/tuning/own-fine.json</code>" in page
    assert "Learning curves: the script wrote" not in page
    assert "Models, and what they make of single samples" in page
    assert not list((data / ".lossbench/scripts").glob("own-*")), "folders of runs that ended well are gone"


@pytest.mark.slow
def test_what_a_script_does_not_say_is_said_to_be_unknown(own: Path) -> None:
    write_script(own, PLAIN)
    train_study_again(own)
    page = (own / "reports/index.html").read_text()
    for said in ("What predictors reach", "Learning curves: the script", "the script wrote no per_example"):
        assert said in page
    assert not (own / "reports/evaluation/own/floors.csv").exists()
    assert not (own / "reports/evaluation/own/statistics.json").exists()


def train_study_again(root: Path, **experiment: Any) -> None:
    shutil.rmtree(root / "data")
    train_study(root, content(**experiment) | {"seeds": [0, 1]})
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")


def test_what_was_run_is_not_run_again_and_an_edit_runs_it(own: Path) -> None:
    assert filled(own).trained == []
    few = {"seeds": [0]}
    write_params(own, content(timeout=5, writes=["logs"], metrics={"accuracy": "higher"}) | few)
    assert filled(own).trained == [], "neither decides a run's result"
    write_script(own, PLAIN)
    assert sorted(filled(own).trained) == ["own-fine 0", "own-plain 0"]
    write_params(own, content() | {"seeds": [0, 6]})
    assert sorted(filled(own).trained) == ["own-fine 6", "own-plain 6"]


@pytest.mark.slow
def test_the_search_is_the_same_for_every_loss_and_goes_by_validation(own: Path) -> None:
    search = {"trials": 3, "seeds": [100, 101], "learning_rate": {"low": 0.05, "high": 0.2}}
    for metric in ("accuracy", "cost"):
        write_script(own, PLAIN)
        write_params(own, content(tuning=search, metric=metric) | {"seeds": [0, 1]})
        filled(own)
        report = json.loads((own / "reports/tuning/own-fine.json").read_bytes())
        assert report["best"] == {"learning_rate": 0.1}
        assert report["monitor"] == {"accuracy": "accuracy", "cost": "-cost"}[metric]
        assert len(report["trials"]) == 3


@pytest.mark.slow
def test_a_trial_that_diverges_is_passed_over_and_a_replicate_fails(own: Path) -> None:
    diverging = PLAIN + '\nif float(told.lr) > 0.15: metrics["validation"]["accuracy"] = float("nan")'
    search = {"trials": 3, "seeds": [100], "learning_rate": {"low": 0.05, "high": 0.2}}
    write_script(own, diverging)
    write_params(own, content(tuning=search) | {"seeds": [0, 1]})
    filled(own)
    report = json.loads((own / "reports/tuning/own-plain.json").read_bytes())
    assert report["trials"][2]["scores"] == [None]
    assert report["best"] == {"learning_rate": 0.1}
    said = failures(own, PLAIN + '\nmetrics["test"]["accuracy"] = float("nan")')
    assert said.count("'test.accuracy' of its metrics.json is nan") == 4, "every failed replicate is told"


@pytest.mark.slow
def test_a_script_may_say_that_it_diverged(own: Path) -> None:
    write_script(own, PLAIN + '\nmetrics["diverged"] = told.seed == "1"')
    train_study_again(own)
    described = json.loads((own / "models/own/own-fine/arm.json").read_bytes())
    assert described["diverged"] == [1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise SystemExit('no GPU here')",
            "'scripts/train.py' ended with exit code 1; its last lines:\n    no GPU here",
        ),
        (
            "print('accuracy 0.9'); raise SystemExit",
            "'scripts/train.py' wrote no metrics.json into the folder {out}",
        ),
        ("metrics = 3", "its metrics.json is 3"),
        ("metrics = {'test': {'accuracy': 'high'}}", "'test.accuracy' of its metrics.json is 'high'"),
        (
            "import pathlib; pathlib.Path('scripts/train.py').write_text('x = 1'); " + PLAIN,
            "was edited while it ran",
        ),
    ],
)
def test_a_run_that_fails_is_one_sentence_and_the_rest_goes_on(own: Path, body: str, said: str) -> None:
    told = failures(own, f"if told.seed == '0' and told.loss == 'fine':\n    {body}\nelse:\n    {PLAIN}")
    if "edited" in said:
        return  # the others' key is another now, too
    assert told.count(said) == 1
    assert "the training of 'own-fine' with seed 0" in told
    params, store = load_params(own / "params.yaml"), Store(str(own / ".lossbench/store"))
    kept = {name: Arm(params, name, own).replicates({"best": {}}).keys for name in params.arms}
    there = {name: [store.get("replicates", key) is not None for key in keys] for name, keys in kept.items()}
    assert there == {"own-plain": [True, True], "own-fine": [False, True]}
    folder = Path(told.rpartition("(its folder: ")[2].partition(")")[0])
    assert (folder / "stderr.txt").is_file()


@pytest.mark.slow
def test_a_fixed_place_that_two_runs_write_to_is_told(own: Path) -> None:
    fixed = PLAIN + "\npathlib.Path('best.pt').write_text(told.seed + told.loss)"
    (own / "there.csv").write_text("")
    said = failures(own, fixed)
    assert "wrote best.pt, as did the training of 'own-plain' with seed 0" in said
    write_params(own, content(writes=["best.pt"]) | {"seeds": [0, 1]})
    filled(own)


@pytest.mark.slow
def test_a_run_beyond_its_timeout_fails_alone(own: Path) -> None:
    slow = PLAIN + "\nif told.seed == '0' and told.loss == 'fine':\n    import time; time.sleep(60)"
    assert "took longer than its 'timeout' of 1.5 s" in failures(own, slow, timeout=1.5)


@pytest.mark.slow
def test_workers_run_scripts_as_the_calling_process_does(own: Path) -> None:
    before = {one.relative_to(own): one.read_bytes() for one in own.glob("models/*/*/seed-*.json")}
    write_params(own, content() | {"seeds": [0, 1]})
    shutil.rmtree(own / ".lossbench" / "store")
    watch = filled(own, lambda: LocalExecutor(Compute(), 3))
    assert len(watch.trained) == 4
    after = {path.relative_to(own): path.read_bytes() for path in own.glob("models/*/*/seed-*.json")}
    assert after == {path: before[path] for path in after}


@pytest.mark.slow
def test_a_worker_that_is_ended_ends_its_script_with_all_that_it_started(own: Path) -> None:
    write_script(own, f"exec({FAMILY!r})\nimport time; time.sleep(600)")
    write_params(own, content() | {"seeds": [0]})
    params, outs = load_params(own / "params.yaml"), Outs(own)
    store, executor = Store(str(outs.home / "store")), LocalExecutor(Compute(), 1)
    arm = Arm(params, "own-plain", own)
    executor.submit(
        next(one for one in arm_flow(arm, store, where(params, outs, store), scores=False) if one)
    )
    event = executor.next()
    assert event is not None
    assert event.content[0] == "begun"
    deadline = time.monotonic() + 60
    while not (own / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    executor.cancel()
    assert ended(int((own / "child").read_text()))


def test_scores_come_from_models_where_the_store_is_gone(own: Path) -> None:
    before = (own / "reports/evaluation/own/scores.csv").read_bytes()
    shutil.rmtree(own / ".lossbench" / "store")
    params, outs = load_params(own / "params.yaml"), Outs(own)
    store, made = Store(str(outs.home / "store")), Experiment(params, "own", own)
    filling = Filling(InlineExecutor)
    weights = weights_in_models(params, "own", outs)
    budgets = {arm: budgets_of(params, arm, outs) for arm in weights}
    filling.add("own", lambda: made.flow(store, where(params, outs, store), weights, budgets))
    filling.run()
    collect_evaluation(made, weights, [], store, outs)
    assert (own / "reports/evaluation/own/scores.csv").read_bytes() == before


def test_mlflow_gets_a_run_for_each_replicate(data: Path) -> None:
    record = arm_record(load_params(data / "params.yaml"), ArmOuts(data, "own", "own-fine"))
    assert sorted(record.seeds) == [0, 1, 2, 3, 4, 5]
    keys = {point.key for point in record.seeds[0].points}
    assert {"test/accuracy", "test/cost", "train/loss", "validation/accuracy", "validation/cost"} <= keys
    assert record.parent.tags["task"] == "command"


def test_a_scripts_model_is_not_served(data: Path) -> None:
    with pytest.raises(
        UserError, match="'own-fine' was trained by a script of yours, whose model Lossbench does not"
    ):
        load_model(data, None, "own-fine", None)


def checked(root: Path, change: Any) -> str:
    """What check says of changed params, in a study with a script."""
    write_script(root, PLAIN)
    (root / "requirements.lock").write_text("")
    (root / "scripts/other.txt").write_text("x")
    (root / "outside.txt").write_text("x")
    block = content()
    change(block)
    folder = Path.cwd()
    os.chdir(root)
    try:
        check(parse_params(block), study=root)
    except UserError as error:
        return str(error)
    finally:
        os.chdir(folder)
    return ""


def experiment(**values: Any) -> Any:
    return lambda block: block["experiments"]["own"].update(values)


SEARCH = {"trials": 2, "seeds": [100]}


@each(
    ("change", "said"),
    [
        (experiment(), ""),
        (experiment(depends=["scripts/other.txt"]), ""),
        (experiment(depends=["scripts/nothing"]), "names 'scripts/nothing', but there is no such file or folder"),
        (experiment(depends=["outside.txt"]), "names 'outside.txt', which lies outside of 'code' (scripts)"),
        (experiment(metric="acuracy"), "does not declare; did you mean 'accuracy'?"),
        (experiment(metric="loss", metrics={"loss": "lower"}), "cannot be compared"),
        (experiment(command=[*COMMAND[:-2]]), ""),
        (experiment(command=[one for one in COMMAND if one != "{out}"]), "has no {out}: scripts write into a folder"),
        (experiment(command=[one for one in COMMAND if one != "{seed}"]), "has no {seed}: without it"),
        (experiment(command=[*COMMAND, "{gainn}"]), "'losses.plain' has no 'gainn'; did you mean 'gain'?"),
        (experiment(command=["pyton", *COMMAND[1:]]), "begins with 'pyton', which is no program"),
        (experiment(command=["python", "scripts/tran.py", *COMMAND[2:]]), "names 'scripts/tran.py', but there is no"),
        (experiment(command=["python", "scripts/train.py", "{seed}", "{out}"]), "is the same for 'own-plain' and 'own-fine'"),
        (experiment(tuning=SEARCH | {"weight_decay": {"low": 0.1, "high": 1}}), "has no {weight_decay}"),
        (experiment(tuning=SEARCH | {"loss_parameters": True}), "what ranges a script's losses have is not known"),
        (lambda block: block["losses"]["plain"].update(seed=1), "'losses.plain.seed' has the name of a placeholder"),
        (lambda block: block.update(retraining={"experiment": "own"}), "whose models a script trains and keeps"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_before_anything_runs(change: Any, said: str, tmp_path: Path) -> None:
    found = checked(tmp_path, change)
    assert (said in found) if said else (found == "")
    assert "\n" not in found


def test_a_loss_that_only_scripts_know_needs_no_name_of_ours(tmp_path: Path) -> None:
    params: Params = parse_params(content())
    assert "name" not in params.losses["fine"]
    said = checked(tmp_path, lambda block: block["losses"].update(unused={"name": "no_such_loss"}))
    assert "no_such_loss" in said, "one that nobody uses is held against ours"


@pytest.mark.parametrize("study", ["own_training", "own_lightning"])
def test_the_shipped_studies_make_sense(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "studies" / study)
    check(load_params())


@pytest.mark.slow
@pytest.mark.parametrize(("study", "arms"), [("own_training", 6), ("own_lightning", 2)])
def test_the_shipped_scripts_run_to_their_verdicts(study: str, arms: int, tmp_path: Path) -> None:
    shipped = ROOT / "studies" / study
    shutil.copytree(shipped / "scripts", tmp_path / "s" / "scripts")
    block = load(shipped)
    block["seeds"] = [0, 1]
    for one in block["experiments"].values():
        one["recipe"]["epochs"] = 2
        if one["tuning"]["trials"]:
            one["tuning"] |= {"trials": 1, "seeds": [1001]}
    train_study(tmp_path / "s", block)
    write_report(load_params(tmp_path / "s/params.yaml"), tmp_path / "s", tmp_path / "s/.lossbench")
    verdicts = json.loads((tmp_path / "s/reports/verdicts.json").read_bytes())["verdicts"]
    assert len(verdicts) == arms - len(block["experiments"])
    scores = [float(row["value"]) for file in (tmp_path / "s").glob("reports/evaluation/*/scores.csv")
              for row in csv.DictReader(file.open()) if row["metric"] == "accuracy"]  # fmt: skip
    assert min(scores) > 0.3, "far above chance after two epochs"
