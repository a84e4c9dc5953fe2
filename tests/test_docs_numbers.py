"""Every number that README and pages give as measured stands in a JSON (or a table of reports/), to its last digit."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT
from law_cases import each

README, STATISTICS, RETRAINING, PERFORMANCE, GPU = (
    ROOT / "README.md", ROOT / "docs/statistics.md", ROOT / "docs/retraining.md", ROOT / "docs/performance.md",
    ROOT / "docs/gpu.md",
)  # fmt: skip
NUMBER = re.compile(r"[−-]?\d*\.?\d+")
LOSSES = {
    "cross-entropy": "cross_entropy", "CE + Dice": "ce_dice", "weighted CE [1, 5]": "weighted_ce", "GCE": "gce",
    "label smoothing": "label_smoothing",
}  # fmt: skip
EXPERIMENTS = {
    "strokes": "strokes", "digits:": "digits", "digits, 30 %": "noisy_digits", "the same": "noisy_digits_tuned",
}  # fmt: skip


def result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_bytes())


def text_of(page: Path) -> str:
    """Its text, each run of blanks one."""
    return " ".join(page.read_text(encoding="utf-8").split())


def says(written: str, value: float) -> bool:
    """Whether a number is written as the value is, to the digits written."""
    digits = written.replace("−", "-")
    places = len(digits.partition(".")[2])
    return abs(float(digits) - value) <= 0.5000001 * 10**-places


def check(cell: str, *values: float) -> None:
    found = NUMBER.findall(cell)
    assert len(found) == len(values), (cell, values)
    assert all(says(one, value) for one, value in zip(found, values, strict=True)), (cell, values)


def table(page: Path, head: str) -> Iterator[list[str]]:
    """Rows of the table whose header begins so."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(head))
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def simulated(what: str, **where: Any) -> list[dict[str, Any]]:
    rows = [row for row in result("statistics")["rows"] if row["what"] == what]
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def rate(what: str, **where: Any) -> dict[str, Any]:
    (row,) = simulated(what, **where)
    return row


def test_a_number_is_held_to_the_digits_written() -> None:
    assert says("0.98", 0.9756)
    assert says("−.05", -0.0451)
    assert not says("0.98", 0.9749)
    assert not says("13.3", 13.434)


SHAPES = {
    "t with 3 degrees of freedom": "t3", "gamma(4), skewness 1": "gamma4", "exponential, skewness 2": "exponential",
    "log-normal, skewness 6": "log_normal", "one in ten collapses by 20 standard deviations": "collapsing",
}  # fmt: skip


def test_statistics_rates_where_arms_are_alike() -> None:
    rows = list(table(STATISTICS, "| arms alike in truth"))
    assert len(rows) == 7
    for name, cell in rows:
        found = simulated("A/A", shape=name.removesuffix(" scores").replace("-", "_"))
        assert {(row["n"], row["contrasts"]) for row in found} >= {(3, 1), (20, 9)}
        assert all(row["of"] == 10_000 for row in found)
        worst = max(found, key=lambda row: row["upper"])
        check(cell, worst["rate"], worst["upper"])


def test_statistics_rates_where_shapes_are_unequal() -> None:
    rows = list(table(STATISTICS, "| equal means"))
    assert {name for name, *_ in rows} == set(SHAPES)
    for name, *cells in rows:
        for n, contrasts, (both, alone) in ((8, 3, cells[:2]), (20, 9, cells[2:])):
            found = rate("equal means, unequal shapes", shape=SHAPES[name], n=n, contrasts=contrasts)
            check(both, found["rate"])
            check(alone, found["sign_flip_alone"])


def test_statistics_power() -> None:
    for name, both, alone in table(STATISTICS, "| power"):
        effect, n, contrasts = (float(one) for one in NUMBER.findall(name))
        found = rate("power", effect_sd=effect, n=n, contrasts=contrasts)
        check(both, found["rate"])
        check(alone, found["sign_flip_alone"])


def test_statistics_wrong_ties() -> None:
    for name, *cells in table(STATISTICS, "| some wrong tie"):
        for contrasts, cell in zip((1, 3, 9), cells, strict=True):
            found = rate("wrong ties", shape="normal", n=int(NUMBER.findall(name)[0]), contrasts=contrasts)
            check(cell, found["rate"], *([found["without_holm"]] if contrasts > 1 else []))


def _looks() -> list[float]:
    looks = [8, 12, 16, 24, 32]
    rows = [
        row
        for shape in ("normal", "t3", "bimodal")
        for row in simulated("A/A, looks", looks=looks, shape=shape)
    ]
    assert {row["of"] for row in rows} == {4000}
    found = [rate("power, looks", looks=looks, contrasts=count) for count in (1, 3)]
    rates = [row["rate"] for row in rows]
    return [
        min(rates), max(rates), max(row["upper"] for row in rows),
        found[0]["rate"], found[0]["mean_n"], found[1]["rate"], found[1]["mean_n"],
    ]  # fmt: skip


def _racing() -> list[float]:
    found = result("racing")
    one = found["rows"][0]
    return [round(one["trainings"]), one["of"], one["any_false_verdict"]["rate"]]


def _real_racing() -> list[float]:
    found = result("racing")["real"]
    count = [found[key]["trainings"] for key in ("racing", "all_seeds")]
    seconds = [found[key]["seconds"] for key in ("racing", "all_seeds")]
    return [found["epochs"], *count, *seconds]


def _tuned(scope: str, **where: Any) -> list[float]:
    return [rate(f"tuned A/A, scope {scope}", n=n, **where)["rate"] for n in (8, 20)]


def _gate(case: str) -> dict[str, Any]:
    return next(row for row in result("gate")["rows"] if row["case"] == case)


def _gates() -> list[float]:
    same, better = _gate("A/A"), [_gate(f"better than {count} epochs") for count in (2, 5)]
    flattered = result("gate")["inflation"]
    return [
        *(100 * same[key] for key in ("share", "low", "high")), 100 * _gate("A/A in fours")["share"], 2, 5,
        *(100 * one["share"] for one in better), 100 * _gate("regression")["share"],
        flattered["points"], flattered["se"],
    ]  # fmt: skip


def _unpaired_power() -> list[float]:
    found = rate("power", n=8, effect_sd=2.0)
    return [100 * (found["sign_flip_alone"] - found["rate"])]


def _upper_of_all() -> list[float]:
    return [100 * max(row["upper"] for row in simulated("A/A"))]


def _unequal() -> list[float]:
    return [
        100 * max(row["rate"] for row in simulated("equal means, unequal shapes", shape=shape))
        for shape in ("exponential", "log_normal", "collapsing")
    ]


def _missed_trainings() -> list[float]:
    shares = [1 - goal["measured"] / goal["goal"] for goal in result("training")["goals"] if not goal["met"]]
    return [100 * min(shares), 100 * max(shares)]


def _overhead() -> list[float]:
    shares, rows = result("overhead")["shares"], {row["what"]: row for row in result("overhead")["rows"]}
    whole = rows["all"]["seconds"]
    dvc = sum(rows[one]["rest"] for one in ("dvc", "chain"))  # several of its commands in one process, too
    parts = (rows["all"]["imports"], rows["idle processors"]["seconds"], dvc)
    return [shares["wall"], 100 * shares["share"], *(100 * part / whole for part in parts)]


CLAIMS: list[tuple[Path, str, Callable[[], list[float]]]] = [
    (STATISTICS, r"false verdicts from (\.\d+) to (\.\d+)", lambda: [0.04, _undeclared()]),
    (STATISTICS, r"gamma\(4\) at 8 seeds (\S+) with one contrast, (\S+) with three, (\S+) with nine",
     lambda: [rate("wrong ties", shape="gamma4", n=8, contrasts=one)["rate"] for one in (1, 3, 9)]),
    (STATISTICS, r"A/A (\S+) to (\S+), upper bounds to (\S+); a difference of 1 SD is found by the last look in (\S+) "
     r"\(one contrast, (\S+) seeds on average\) and (\S+) \(three, ([\d.]+)", _looks),
    (STATISTICS, r"(\d+) trainings of (\d+), some false verdict (\.\d+),", _racing),
    (STATISTICS, r"digits \((\d+) epochs\): (\d+) of (\d+) trainings, (\d+) s against (\d+) s", _real_racing),
    (STATISTICS, r"That is (\S+) and (\S+) of the trainings", lambda: [
        result("racing")["rows"][0]["share"], result("racing")["real"]["share_of_trainings"]]),
    (STATISTICS, r"end, too: (\.\d+) of the trainings at one, (\.\d+) at one and a half", lambda: [
        row["share"] for margin in (1, 1.5) for row in result("racing")["rows"] if row["margin_sd"] == margin]),
    (STATISTICS, r"percentile bootstrap .*? (\.\d+), (\.\d+), (\.\d+) and ± 1\.96 standard errors (\.\d+), (\.\d+), (\.\d+)",
     lambda: [rate(what, n=n)["rate"] for what in ("percentile bootstrap", "± 1.96 standard errors") for n in (5, 10, 20)]),
    (STATISTICS, r"with one tuning seed (\.\d+) and (\.\d+)", lambda: _tuned("arm", tuning_seeds=1)),
    (STATISTICS, r"with three (\.\d+) and (\.\d+)", lambda: _tuned("arm", tuning_seeds=3)),
    (STATISTICS, r"a search for each replicate (\.\d+) and (\.\d+)", lambda: _tuned("replicate")),
    (STATISTICS, r"to (\.\d+) where a difference ends the search as a tie does", lambda: [
        rate("wrong ties, looks that nobody declared")["rate"]]),
    (STATISTICS, r"until there is a tie, to (\.\d+) \((\.\d+) at half that margin, (\.\d+) at twice", lambda: [
        rate("wrong ties, undeclared looks that ties alone end", margin_sd=one, contrasts=1)["rate"] for one in (1, 0.5, 2)]),
    (STATISTICS, r"at 8 seeds in (\.\d+), (\.\d+), (\.\d+) of the cases, at 20 seeds in (\.\d+), (\.\d+), (\.\d+)", lambda: [
        rate("best of several points on the same seeds, one-sided", n=n, points=points)["rate"]
        for n in (8, 20) for points in (4, 12, 20)]),
    (README, r"stay at or below (\S+) % \(upper bound, seven shapes\)", _upper_of_all),
    (README, r"exponential (\d+) %, log-normal (\d+) %, one arm collapsing one time in ten (\d+) %", _unequal),
    (README, r"wrong ties of skewed differences reach (\d+) % with nine contrasts",
     lambda: [100 * rate("wrong ties", shape="gamma4", n=8, contrasts=9)["rate"]]),
    (README, r"on eight seeds (\d+) in 100 are missed", _unpaired_power),
    (RETRAINING, r"the same recipe (\S+) % \((\S+) to (\S+) %\), in fours (\S+) %, better than (\d) and than (\d) epochs "
     r"(\S+) and (\S+) %, one that lost a class (\d+) %; two hundred .*? by (\S+) points \(standard error (\S+)\)", _gates),
    (PERFORMANCE, r"each by (\d+) to (\d+) %", _missed_trainings),
    (PERFORMANCE, r"`make repro` \((\d+) s by the clock, .*?\) (\d+) % are spent .*? time (\d+) % are imports .*? (\d+) % they "
     r"have nothing to do.*? (\d+) % go to DVC", _overhead),
    (PERFORMANCE, r"MLflow's journal takes (\S+) % of the training's time", lambda: [
        100 * result("overhead")["shares"]["journal_share"]]),
    (PERFORMANCE, r"`dvc.lock` is gone takes (\S+) s .*? nothing changed (\S+) s .*? in the store (\S+) s", lambda: [
        result("overhead")["shares"][one] for one in ("all_in_the_store", "idle_dvc_repro", "many_arms_in_the_store")]),
]  # fmt: skip


def _undeclared() -> float:
    return max(row["rate"] for row in simulated("A/A, looks that nobody declared"))


@each(("page", "pattern", "values"), CLAIMS)
def test_what_a_sentence_claims_was_measured(
    page: Path, pattern: str, values: Callable[[], list[float]]
) -> None:
    found = [one for one in re.finditer(pattern, text_of(page)) if one.group(1) is not None]
    assert len(found) == 1, f"{page.name}: no sentence, or several, of the form {pattern}"
    check(" ".join(one.rstrip(",;.") for one in found[0].groups()), *values())


def test_readmes_table_of_other_packages() -> None:
    found = {(row["package"], row["correlation"]): row for row in result("peers")["rows"]}
    names = {"Lossbench": "lossbench", "autorank, Bayesian": "autorank bayesian", "baycomp, signed rank": "baycomp signed rank",
             "autorank, frequentist (its default)": "autorank frequentist", "ictonyx": "ictonyx",
             "deep-significance, ASO": "deep-significance ASO"}  # fmt: skip
    rows = [row for row in table(README, "| package |") if row[0] in names]
    assert len(rows) == len(names)
    for name, *cells in rows:
        of = [found[names[name], correlation] for correlation in (0.0, 0.5, 0.8)]
        for cell, row in zip(cells[:3], of, strict=True):
            check(cell, row["false"])
        for cell, row in zip(cells[3:6], of, strict=True):
            check(cell, row["power"])
        check(cells[6], of[0]["families"])


def of_reports(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((ROOT / "reports" / name).read_text(encoding="utf-8").splitlines()))


def floor_of(experiment: str) -> float:
    line = next(
        line for line in (ROOT / "reports/report.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {experiment} | *constant prediction*")
    )  # fmt: skip
    return float(line.split("|")[4])


def values_of(verdict: dict[str, str]) -> list[float]:
    """What README says of a contrast, in its order."""
    value, low, high = (float(verdict[key]) for key in ("difference", "ci_low", "ci_high"))
    match verdict["verdict"]:
        case "better" | "worse":
            return [abs(value), *sorted((abs(low), abs(high))), float(verdict["p_holm"])]
        case "tie":
            return [value, float(verdict["tie_low"]), float(verdict["tie_high"]), float(verdict["margin"])]
        case _:
            seeds = (float(verdict[key]) for key in ("seeds_needed", "seeds_needed_low", "seeds_needed_high"))
            return [value, low, high, float(verdict["p_holm"]), *seeds]


def test_readmes_table_of_results() -> None:
    metrics = {row["experiment"]: row["metric"] for row in of_reports("verdicts.csv")}
    board = {(row["experiment"], row["loss"]): row for row in of_reports("leaderboard.csv")
             if row["metric"] == metrics[row["experiment"]]}  # fmt: skip
    verdicts = {(row["experiment"], row["arm"].split("-", 1)[1]): row for row in of_reports("verdicts.csv")}
    experiment, said = "", set()
    for name, loss, score, against in table(README, "| experiment | loss |"):
        experiment = next((EXPERIMENTS[key] for key in EXPERIMENTS if name.startswith(key)), experiment)
        if loss.startswith("*"):
            check(score, floor_of(experiment))
            continue
        key = (experiment, LOSSES.get(loss, loss.lower()))
        row = board[key]
        check(score, *(float(row[column]) for column in ("mean", "ci_low", "ci_high")))
        if key not in verdicts:
            assert not against
            continue
        said.add(key)
        found = verdicts[key]
        assert against.lstrip("*").startswith(found["verdict"])
        check(against, *values_of(found))
    told = {key for key, row in verdicts.items() if key[0] != "noisy_digits_tuned" or key in said}
    assert said == told, "README leaves a verdict out"


def test_readmes_words_on_the_results() -> None:
    at = {row["loss"]: float(row["mean"]) for row in of_reports("leaderboard.csv")
          if (row["experiment"], row["metric"]) == ("strokes", "mean_iou_at_threshold")}  # fmt: skip
    found = re.search(r"cross-entropy has (\S+), CE \+ Dice (\S+), Dice (\S+?)\. ", text_of(README))
    assert found
    check(" ".join(found.groups()).replace(",", ""), at["cross_entropy"], at["ce_dice"], at["dice"])
    verdicts = json.loads((ROOT / "reports/verdicts.json").read_bytes())["verdicts"]
    focal = next(one for one in verdicts if one["arm"] == "strokes-focal")
    found = re.search(
        r"Focal's lag shrinks with training: (\S+) after half the epochs, (\S+) after all", text_of(README)
    )
    assert found
    check(" ".join(found.groups()).replace(",", ""), *(abs(one["difference"]) for one in focal["budgets"]))
    assert f"The default comparison: {focal['n']} seeds an arm" in text_of(README)


def test_performances_table() -> None:
    rows = {(row["case"], row["way"].replace("2 side", "two side").replace("8 side", "eight side")): row
            for row in result("training")["rows"]}  # fmt: skip
    case = ""
    for network, ours, tutorial, lightning, _, share in table(PERFORMANCE, "| network | ours |"):
        case = network or case
        row = rows[case, f"ours, {ours}"]
        check(tutorial, row["faster_than_tutorial"])
        check(lightning, row["faster_than_lightning"])
        check(share, 100 * row["of_ceiling"])


def test_what_a_gpu_gave_is_what_its_page_says() -> None:
    measured = result("gpu")
    goals = {one["name"].partition(", of ")[0]: one for one in measured["goals"]}
    begun = {
        "trained twice": "trainings that repeat",
        "steps recorded": "trainings recorded",
        "what deterministic": "what determinism costs",
        "LeNet, a population": "lenet: a population of 64, times as many",
        "ResNet-18": "resnet18: a population of 16",
        "LeNet's": "lenet: a population of 64 by products",
        "MNIST": "mnist, lenet: mean",
        "CIFAR-10, airbench, 12": "cifar10, airbench, 12 epochs: mean",
        "the same": "cifar10, airbench, 12 epochs: seconds",
        "CIFAR-10, airbench, 10": "cifar10, airbench, 10 epochs: mean",
        "CIFAR-10, ResNet-9": "cifar10, resnet9, 24 epochs: mean",
    }
    rows = list(table(GPU, "| what | measured | goal |"))
    assert len(rows) == len(begun)
    for what, said, goal in rows:
        name = next(name for start, name in begun.items() if what.startswith(start))
        (one,) = (found for start, found in goals.items() if start.startswith(name))
        whole = [one["goal"]] if " of " in said and "time" not in said else []
        check(said, one["measured"], *whole)
        check(goal, one["goal"])
        assert ("missed" in goal) == (not one["met"])
    text = text_of(GPU)
    assert f"{measured['minutes']} minutes (goal 8, missed)" in text
    parts = [row["part"] for row in measured["rows"]]
    for what, part in (("trained twice", "variety"), ("steps recorded", "graphs")):
        (line,) = (name for name, *_ in rows if name.startswith(what))
        assert f"({parts.count(part)})" in line
        assert str(parts.count("losses")) in line
    fast = next(row for row in measured["rows"] if row.get("model") == "airbench, 12 epochs")
    spread = f"from {fast['lowest']} to {fast['highest']}; 12 epochs on 49 432 images"
    assert spread in text
    assert fast["trained_on"] == 49432
    for engine, share in (("loop", "0.3 to 0.6"), ("population", "0.4 to 0.8")):
        ran = [1 / row["faster_than_as_they_come"] for row in measured["rows"] if row.get("engine") == engine]
        assert share == f"{min(ran):.1f} to {max(ran):.1f}"
        assert share in text
