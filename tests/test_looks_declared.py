"""Looks in the chain: params.yaml and looks.yaml alone say which seeds an arm is trained on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny_params, write_params
from dvc_cases import checkout, environment, lock, lossbench, repro
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples

from lossbench.errors import UserError
from lossbench.execution.declared import (
    LOOKS,
    begin_looks,
    compared_digest,
    forget_other_data,
    is_left,
    looks_said,
    plan_of,
    record_found,
    records_of,
    seeds_of,
)
from lossbench.execution.fill import Arm
from lossbench.params import Params, load_params, parse_params
from lossbench.statistics.family import smallest_p
from lossbench.statistics.looks import nominal_levels
from lossbench.statistics.looks_file import block_of, write_looks
from lossbench.statistics.record import SETTLED, Found, Record, Row, Verdict, begin_next, seeds_of_arms

SEEDS = list(range(20, 28))
COUNTS = (3, 5, 8)


def content(**changed):
    made = tiny_params() | {"seeds": SEEDS}
    made["losses"] = made["losses"] | {"hinge": {"name": "hinge"}}
    made["arms"] = made["arms"] | {
        "digits-hinge": {"experiment": "digits", "dataset": "digits", "loss": "hinge"}
    }
    made["comparison"] = {"baseline": "cross_entropy", "looks": list(COUNTS)}
    return made | changed


def study(folder: Path, **changed) -> Params:
    write_params(folder, content(**changed))
    return load_params(folder / "params.yaml")


def record(params: Params, *looks: dict[str, Verdict], of: str | None = None, data: str = "") -> Record:
    """Digits' record of looks, each with what was found of the losses that were still open."""
    rows = tuple(
        Row(count, tuple(SEEDS[:count]), {
            (f"digits-{loss}", "digits-cross_entropy"): Found(0.04, 0.04 if verdict == Verdict.TIE else 0.5, verdict)
            for loss, verdict in found.items()
        })
        for count, found in zip(COUNTS, looks, strict=False)
    )  # fmt: skip
    return Record(COUNTS, 0.05, rows, compared_digest(params, "digits") if of is None else of, data)


def counts(params: Params, folder: Path) -> dict[str, int]:
    return {arm: len(seeds) for arm, seeds in seeds_of(params, folder).items()}


def test_without_looks_every_arm_has_all_seeds(tmp_path):
    params = study(tmp_path, comparison={"baseline": "cross_entropy"})
    assert set(seeds_of(params, tmp_path).values()) == {tuple(SEEDS)}
    assert looks_said(params, tmp_path) == []


def test_before_the_first_look_every_arm_has_its_seeds(tmp_path):
    params = study(tmp_path)
    assert set(seeds_of(params, tmp_path).values()) == {tuple(SEEDS[:3])}
    assert is_left(params, tmp_path)
    assert begin_looks(params, tmp_path) == []
    assert (
        "digits: look 1 of 3, at 3 seeds, is begun; 0.025 of the level of 0.05"
        in looks_said(params, tmp_path)[0]
    )


@pytest.mark.parametrize(("looks", "told"), [((3, 8), True), ((7, 8), True), ((8, 10), False), ((3,), False)])
def test_a_first_look_too_early_for_any_difference_is_told_before_it_is_trained_for(looks, told, tmp_path):
    """Two contrasts: half the level for each is .0125, and 2/2^7 is .0156."""
    comparison = {"baseline": "cross_entropy", "looks": list(looks)}
    params = study(tmp_path, comparison=comparison, seeds=list(range(20, 30)))
    said = looks_said(params, tmp_path)[0]
    assert ("no difference" in said) == told
    assert ("let it be at 8 or later" in said) == told
    least = nominal_levels(looks, 0.05 / 2)[0]
    assert (smallest_p(looks[0]) > least) == (told or looks == (3,))


def test_a_look_that_is_begun_has_further_seeds_for_what_is_open_alone(tmp_path):
    params = study(tmp_path)
    taken = record(params, {"focal": Verdict.BETTER, "hinge": Verdict.UNDECIDED})
    write_looks(tmp_path / LOOKS, {"digits": taken})
    assert counts(params, tmp_path)["digits-hinge"] == 3
    assert begin_looks(params, tmp_path) == ["digits"]
    assert begin_looks(params, tmp_path) == [], "one is begun, and not written down yet"
    assert counts(params, tmp_path) == {
        "digits-cross_entropy": 5, "digits-focal": 3, "digits-hinge": 5,
        "scenes-cross_entropy": 3, "scenes-focal": 3,
    }  # fmt: skip
    said = looks_said(params, tmp_path)[0]
    assert "look 2 of 3, at 5 seeds, is begun" in said
    assert "decided: focal (better, at 3 seeds); open: hinge" in said


def test_arms_ask_for_the_seeds_of_their_looks(tmp_path):
    params = study(tmp_path)
    write_looks(tmp_path / LOOKS, {"digits": record(params, {"focal": Verdict.TIE, "hinge": Verdict.WORSE})})
    assert begin_looks(params, tmp_path) == []
    assert Arm(params, "digits-focal", tmp_path).seeds == tuple(SEEDS[:3])


verdicts = st.sampled_from(list(Verdict))


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.tuples(verdicts, verdicts), max_size=3))
def test_seeds_only_grow_are_shared_from_the_first_on_and_stop_where_decided(found):
    """Whatever looks found, in whatever order."""
    params = parse_params(content())
    plan_arms, baseline = ["digits-cross_entropy", "digits-focal", "digits-hinge"], "digits-cross_entropy"
    plan = plan_of(params)
    assert plan is not None
    before = dict.fromkeys(plan_arms, 0)
    left = {"focal", "hinge"}
    for number, (focal, hinge) in enumerate(found):
        of_look = {loss: one for loss, one in (("focal", focal), ("hinge", hinge)) if loss in left}
        rows = [*before_rows(found[:number]), of_look]
        standing = record(params, *rows)
        now = seeds_of_arms(plan_arms, baseline, plan, standing)
        assert all(seeds == plan.seeds[: len(seeds)] for seeds in now.values())
        assert all(len(now[arm]) >= before[arm] for arm in plan_arms)
        assert len(now[baseline]) == max(map(len, now.values()))
        before = {arm: len(seeds) for arm, seeds in now.items()}
        left -= {loss for loss, one in of_look.items() if one in SETTLED}
        further = begin_next(plan_arms, baseline, plan, standing)
        assert (further is None) == (not left or number + 1 == len(COUNTS))
        if further is None:
            return


def before_rows(found):
    rows, left = [], {"focal", "hinge"}
    for focal, hinge in found:
        row = {loss: one for loss, one in (("focal", focal), ("hinge", hinge)) if loss in left}
        left -= {loss for loss, one in row.items() if one in SETTLED}
        rows.append(row)
    return rows


@each(
    ("change", "said"),
    [
        (lambda made: made.update(seeds=[99, *SEEDS[1:]]), "seeds may not be exchanged after a look"),
        (lambda made: made["comparison"].update(looks=[3, 6, 8]), "declared after the first one"),
        (lambda made: made["comparison"].update(level=0.1), "declared after the first one"),
        (lambda made: made["comparison"].pop("looks"), "would be one look more"),
        (lambda made: made["losses"]["focal"].update(gamma=3.0), "was taken at other trainings"),
        (lambda made: made["experiments"]["digits"].update(margin=0.02), "was taken at other trainings"),
        (lambda made: made["arms"].pop("digits-hinge"), "was taken at other trainings"),
    ],
)
def test_what_was_looked_at_may_not_change(tmp_path, change, said):
    params = study(tmp_path)
    write_looks(
        tmp_path / LOOKS, {"digits": record(params, {"focal": Verdict.BETTER, "hinge": Verdict.UNDECIDED})}
    )
    made = content()
    change(made)
    write_params(tmp_path, made)
    with pytest.raises(UserError, match=said) as caught:
        seeds_of(load_params(tmp_path / "params.yaml"), tmp_path)
    assert str(caught.value).startswith("looks.yaml: digits: ")
    assert "nobody has looked at" in str(caught.value)


def told(params: Params, *looks: list[tuple[str, str, float, float]]) -> dict[str, object]:
    """Blocks of looks.yaml as somebody's editor left them: (loss, verdict, p, p of a tie) a contrast."""
    taken = [
        {"look": count, "seeds": SEEDS[:count], "contrasts": [
            {"arm": f"digits-{loss}", "baseline": "digits-cross_entropy", "p": p, "p_tie": tie, "verdict": verdict}
            for loss, verdict, p, tie in found
        ]}
        for count, found in zip(COUNTS, looks, strict=False)
    ]  # fmt: skip
    block = {"looks": list(COUNTS), "level": 0.05, "of": compared_digest(params, "digits"), "taken": taken}
    return {"digits": block}


FOCAL, HINGE = ("focal", "better", 0.04, 0.5), ("hinge", "undecided", 0.5, 0.5)


@each(
    ("looks", "said"),
    [
        (([FOCAL, HINGE, HINGE],), "a contrast stands there twice"),
        (([FOCAL, HINGE], [FOCAL, HINGE]), "not those that the look before left open"),
        (([FOCAL, HINGE], [FOCAL]), "not those that the look before left open"),
        (([], [FOCAL, HINGE]), "found nothing, and a later look was taken"),
        (([("focal", "better", 0.9, 0.5), HINGE],), "'digits-focal' is 'better' at p = 0.9"),
        (([("focal", "worse", 0.051, 0.5), HINGE],), "'digits-focal' is 'worse' at p = 0.051"),
        (([("focal", "tie", 0.01, 0.5), HINGE],), "'digits-focal' is 'tie' at p = 0.01 (of a tie: 0.5)"),
        (([FOCAL],), "lacks 'digits-hinge' against 'digits-cross_entropy', which is compared"),
        (
            ([FOCAL, HINGE, ("hing", *HINGE[1:])],),
            "names 'digits-hing' against 'digits-cross_entropy', which is not",
        ),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, looks, said):
    params = study(tmp_path)
    (tmp_path / LOOKS).write_text(json.dumps(told(params, *looks)))
    with pytest.raises(UserError) as caught:
        records_of(params, tmp_path)
    assert said in str(caught.value)


def test_a_record_that_does_not_is_read(tmp_path):
    params = study(tmp_path)
    (tmp_path / LOOKS).write_text(json.dumps(told(params, [FOCAL, HINGE], [HINGE], [])))
    assert counts(params, tmp_path)["digits-hinge"] == 8


def test_seeds_after_the_last_look_are_never_trained(tmp_path):
    params = study(tmp_path, seeds=[*SEEDS, 99])
    looks = [dict.fromkeys(("focal", "hinge"), Verdict.UNDECIDED)] * 3
    write_looks(tmp_path / LOOKS, {"digits": record(params, *looks)})
    assert counts(params, tmp_path)["digits-hinge"] == 8
    assert begin_looks(params, tmp_path) == []


def test_without_declared_looks_there_is_no_look(tmp_path):
    params = study(tmp_path, comparison={"baseline": "cross_entropy"})
    with pytest.raises(UserError, match=r"'comparison\.looks' declares no looks"):
        begin_looks(params, tmp_path)


def test_other_data_begin_the_looks_anew_and_it_is_said(tmp_path):
    params = study(tmp_path)
    for name in ("digits", "scenes"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "provenance.json").write_text(json.dumps({"content_sha256": "b" * 64}))
    found = record(params, {"focal": Verdict.BETTER, "hinge": Verdict.UNDECIDED}, data="a" * 16)
    write_looks(tmp_path / LOOKS, {"digits": found})
    assert ["looked at on other data" in one for one in forget_other_data(params, tmp_path)] == [True]
    assert records_of(params, tmp_path)["digits"].taken == ()
    assert forget_other_data(params, tmp_path) == []


def test_what_a_look_found_is_written_down_once_and_to_the_digit(tmp_path):
    params = study(tmp_path)
    found = record(params, {"focal": Verdict.BETTER, "hinge": Verdict.UNDECIDED}, data="c" * 16)
    (tmp_path / "reports").mkdir()
    looks = {"digits": {"said": "", "record": block_of(found)}}
    (tmp_path / "reports/verdicts.json").write_text(json.dumps({"looks": looks}))
    assert record_found(params, tmp_path)
    written = (tmp_path / LOOKS).read_bytes()
    assert records_of(params, tmp_path)["digits"] == found
    assert not record_found(params, tmp_path)
    assert (tmp_path / LOOKS).read_bytes() == written


def test_a_look_without_a_report_has_that_made_and_no_further_one_is_begun(tmp_path, capsys):
    """A run that was killed in between: the same command brings the report, at the last look too."""
    from lossbench.running import begin

    params = study(tmp_path)
    found = record(params, {"focal": Verdict.BETTER, "hinge": Verdict.UNDECIDED}, data="c" * 16)
    write_looks(tmp_path / LOOKS, {"digits": found})
    (tmp_path / "reports").mkdir()
    report = tmp_path / "reports/verdicts.json"
    for content in (None, '{"looks": {"di', json.dumps({"looks": {}})):
        if content is not None:
            report.write_text(content)
        assert begin(params, tmp_path, "next")
        assert "has no report yet" in capsys.readouterr().out
        assert len(records_of(params, tmp_path)["digits"].taken) == 1
    report.write_text(json.dumps({"looks": {"digits": {"said": "", "record": block_of(found)}}}))
    assert begin(params, tmp_path, "next")
    assert len(records_of(params, tmp_path)["digits"].taken) == 2

    settled = record(params, {"focal": Verdict.BETTER, "hinge": Verdict.WORSE}, data="c" * 16)
    scenes = Row(3, (20, 21, 22), {("scenes-focal", "scenes-cross_entropy"): Found(0.5, 0.01, Verdict.TIE)})
    records = {
        "digits": settled,
        "scenes": Record(COUNTS, 0.05, (scenes,), compared_digest(params, "scenes"), "d" * 16),
    }
    write_looks(tmp_path / LOOKS, records)
    assert begin(params, tmp_path, "next"), "decided, and without a report"
    told = {name: {"said": "", "record": block_of(one)} for name, one in records.items()}
    report.write_text(json.dumps({"looks": told}))
    assert not begin(params, tmp_path, "next")
    assert "everything is decided" in capsys.readouterr().out


def test_the_report_says_the_look_and_judges_each_contrast_at_its_own(trained_study, tmp_path):
    """The trained study's three seeds as a declared look: no verdict can be had at its level."""
    import shutil

    from lossbench.reporting.write import write_report

    folder = tmp_path / "study"
    shutil.copytree(trained_study, folder)
    made = tiny_params() | {
        "seeds": [0, 1, 2, 3],
        "comparison": {"baseline": "cross_entropy", "looks": [3, 4]},
    }
    made["experiments"].pop("scenes")
    made["arms"] = {name: one for name, one in made["arms"].items() if one["experiment"] == "digits"}
    write_params(folder, made)
    params = load_params(folder / "params.yaml")
    write_report(params, folder, tmp_path / "home")
    told = json.loads((folder / "reports/verdicts.json").read_text())
    assert "look 1 of 2, at 3 seeds; 0.025 of the level of 0.05 is spent" in told["looks"]["digits"]["said"]
    assert "looks at 3, 4 seeds" in told["verdicts"][0]["correction"]
    assert told["looks"]["digits"]["said"] in (folder / "reports/report.md").read_text()
    assert "look 1 of 2" in (folder / "reports/index.html").read_text()
    assert record_found(params, folder)
    assert [row.look for row in records_of(params, folder)["digits"].taken] == [3]
    before = {
        file: (folder / "reports" / file).read_bytes()
        for file in ("verdicts.json", "report.md", "index.html")
    }
    write_report(params, folder, tmp_path / "home")
    assert before == {file: (folder / "reports" / file).read_bytes() for file in before}
    assert not record_found(params, folder)


def test_an_arm_that_stopped_keeps_its_look_while_others_go_on(trained_study, tmp_path):
    """Focal was decided at two seeds; a third loss (its copy) and the baseline go on to three."""
    import shutil

    import numpy as np
    import pandas as pd

    from lossbench.reporting.write import write_report

    folder = tmp_path / "study"
    shutil.copytree(trained_study, folder)
    models, scores = folder / "models/digits", folder / "reports/evaluation/digits/scores.csv"
    shutil.copytree(models / "digits-focal", models / "digits-third")
    shutil.copy(folder / "reports/tuning/digits-focal.json", folder / "reports/tuning/digits-third.json")
    arm = json.loads((models / "digits-third/arm.json").read_text()) | {
        "arm": "digits-third",
        "loss": "third",
    }
    (models / "digits-third/arm.json").write_text(json.dumps(arm))
    table = pd.read_csv(scores)
    copied = table[table["arm"] == "digits-focal"].assign(arm="digits-third", loss="third")
    kept = table[(table["arm"] != "digits-focal") | (table["seed"] < 2)]
    pd.concat([kept, copied]).to_csv(scores, index=False)
    for file in (folder / "reports/evaluation/digits/statistics").glob("digits-focal.npy"):
        shutil.copy(file, file.with_name("digits-third.npy"))
        np.save(file, np.load(file)[:2])
    for name in ("calibration", "reliability", "confusion", "per_class"):
        file = folder / f"reports/evaluation/digits/{name}.csv"
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        more = rows[rows["arm"] == "digits-focal"].assign(arm="digits-third")
        pd.concat([rows, more]).to_csv(file, index=False)
    made = tiny_params()
    made["losses"] = made["losses"] | {"third": {"name": "focal", "gamma": 2.0}}
    made["arms"] = made["arms"] | {
        "digits-third": {"experiment": "digits", "dataset": "digits", "loss": "third"}
    }
    made["experiments"].pop("scenes")
    made["arms"] = {name: one for name, one in made["arms"].items() if one["experiment"] == "digits"}
    made |= {"seeds": [0, 1, 2], "comparison": {"baseline": "cross_entropy", "looks": [2, 3]}}
    write_params(folder, made)
    params = load_params(folder / "params.yaml")
    found = {
        ("digits-focal", "digits-cross_entropy"): Found(0.01, 0.5, Verdict.BETTER),
        ("digits-third", "digits-cross_entropy"): Found(0.4, 0.5, Verdict.UNDECIDED),
    }
    rows = (Row(2, (0, 1), found), Row(3, (0, 1, 2)))
    write_looks(folder / LOOKS, {"digits": Record((2, 3), 0.05, rows, compared_digest(params, "digits"))})
    assert {arm: len(seeds) for arm, seeds in seeds_of(params, folder).items()} == {
        "digits-cross_entropy": 3, "digits-focal": 2, "digits-third": 3,
    }  # fmt: skip
    write_report(params, folder, tmp_path / "home")
    told = json.loads((folder / "reports/verdicts.json").read_text())
    assert {one["arm"]: one["n"] for one in told["verdicts"]} == {"digits-focal": 2, "digits-third": 3}
    assert told["verdicts"][0]["verdict"] == "better", "as it was written down"
    assert "decided: focal (better, at 2 seeds)" in told["looks"]["digits"]["said"]
    assert told["hypotheses"][0]["n"] == 2, "a claim is judged at the look that both arms have reached"
    board = pd.read_csv(folder / "reports/leaderboard.csv")
    counts = board[board["metric"] == "accuracy"].set_index("loss")["n"]
    assert dict(counts) == {"cross_entropy": 3, "focal": 2, "third": 3}
    assert "2 to 3 seeds each" in (folder / "reports/index.html").read_text()


@pytest.mark.slow
def test_a_run_over_all_looks_killed_half_way_ends_as_dvc_repro_does(tmp_path):
    """Same looks.yaml, same dvc.lock: of a run that was killed and resumed, and of `dvc repro` elsewhere."""
    made = tiny_params()
    made["experiments"].pop("scenes"), made["datasets"].pop("scenes")
    made["arms"] = {name: arm for name, arm in made["arms"].items() if arm["experiment"] == "digits"}
    made |= {
        "seeds": [0, 1, 2, 3],
        "comparison": {"baseline": "cross_entropy", "looks": [2, 4]},
        "tracking": {},
    }
    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    for one in (first, second):
        write_params(one, made)
    command = [sys.executable, "-m", "lossbench", "run", "--looks"]
    begun = subprocess.Popen(
        command, cwd=first, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    while begun.poll() is None and "look: 4" not in (first / LOOKS).read_text():
        time.sleep(0.05)
    assert begun.poll() is None, "it was to be killed in its second look"
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    resumed = lossbench(first, "run", "--looks")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "look 2 of 2, at 4 seeds" in (first / "reports/report.md").read_text()

    (second / LOOKS).write_bytes((first / LOOKS).read_bytes())
    repro(second)
    assert lock(first) == lock(second)
    again = lossbench(first, "look")
    assert again.returncode == 0
    assert "all declared looks are taken" in again.stdout or "everything is decided" in again.stdout
