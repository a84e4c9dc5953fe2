"""``looks.yaml``: the looks taken, in a file that git tracks, so that nobody looks twice unseen."""

import math
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from lossbench.documents import read_document
from lossbench.errors import UserError, brief
from lossbench.options import Options, telling
from lossbench.statistics.record import SETTLED, Found, Record, Row, Verdict
from lossbench.system import write_atomically

HEAD = """\
# Looks taken (see comparison.looks in params.yaml). Written by Lossbench; git should track it: looking again
# until something shows is what it keeps you from.
"""
PLACES = 10
"""Significant digits of a p-value; more would differ between machines."""

Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0)]


class _Contrast(Options):
    arm: str
    baseline: str
    p: Probability
    p_tie: Probability | None
    verdict: Verdict


class _Look(Options):
    look: Annotated[int, Field(ge=2)]
    seeds: tuple[Seed, ...]
    contrasts: tuple[_Contrast, ...]


class _Experiment(Options):
    looks: tuple[Annotated[int, Field(ge=2)], ...]
    level: Annotated[float, Field(gt=0, lt=0.5)]
    of: str = ""
    data: str = ""
    taken: tuple[_Look, ...]


def read_looks(file: Path) -> dict[str, Record]:
    """Read the record, experiment by experiment; empty where there is no file yet.

    Raises:
        UserError: naming the file, the key's path, what was found and what is allowed.

    """
    if not file.exists():
        return {}
    content = read_document(file, "")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected experiments at the top level, found {type(content).__name__}")
    return {str(name): record_of(block, str(name), file) for name, block in content.items()}


def record_of(block: Any, name: str, file: Path) -> Record:
    """Read an experiment's block.

    Raises:
        UserError: naming the file, the key's path, what was found and what is allowed.

    """
    try:
        one = _Experiment.model_validate(block)
    except ValidationError as error:
        first = telling(error)
        where = ".".join([name, *map(str, first["loc"])])
        raise UserError(
            f"{file}: '{where}' is {brief(first['input'])}; {first['msg'][0].lower()}{first['msg'][1:]} "
            "(the file is written by Lossbench: take it from git again)"
        ) from None
    for number, look in enumerate(one.taken):
        if number >= len(one.looks) or look.look != one.looks[number] or len(look.seeds) != look.look:
            raise UserError(
                f"{file}: '{name}.taken.{number}' is a look at {look.look} seeds ({len(look.seeds)} named), "
                f"and the declared looks are {list(one.looks)} (the file is written by Lossbench: take it "
                "from git again)"
            )
    _check_story(one, name, file)
    return Record(one.looks, one.level, tuple(_row(look) for look in one.taken), one.of, one.data)


def _check_story(one: _Experiment, name: str, file: Path) -> None:
    """Refuse what no looks could have left: who was open, and what was decided at which p."""
    for number, look in enumerate(one.taken):
        named = [(contrast.arm, contrast.baseline) for contrast in look.contrasts]
        before = one.taken[number - 1].contrasts if number else ()
        still_open = {(each.arm, each.baseline) for each in before if each.verdict not in SETTLED}
        wrong = next((_words(each) for each in look.contrasts if not _follows(each, one.level)), "")
        if len(set(named)) < len(named):
            wrong = "a contrast stands there twice"
        elif named and number and set(named) != still_open:
            wrong = "its contrasts are not those that the look before left open"
        elif not named and number + 1 < len(one.taken):
            wrong = "it found nothing, and a later look was taken"
        if wrong:
            raise UserError(
                f"{file}: '{name}.taken.{number}', the look at {look.look} seeds: {wrong} (the file is "
                "written by Lossbench: take it from git again)"
            )


def _follows(one: _Contrast, level: float) -> bool:
    match one.verdict:
        case Verdict.BETTER | Verdict.WORSE:
            return one.p <= level
        case Verdict.TIE:
            return one.p_tie is not None and one.p_tie <= level
        case _:
            return True


def _words(one: _Contrast) -> str:
    return f"'{one.arm}' is '{one.verdict}' at p = {one.p:g} (of a tie: {one.p_tie}), which cannot be"


def _row(look: _Look) -> Row:
    found = {
        (one.arm, one.baseline): Found(one.p, math.nan if one.p_tie is None else one.p_tie, one.verdict)
        for one in look.contrasts
    }
    return Row(look.look, look.seeds, found)


def write_looks(file: Path, records: Mapping[str, Record]) -> None:
    """Write the record; the same looks give the same bytes."""
    yaml = YAML()
    yaml.width = 200
    text = StringIO()
    taken = {name: _in_lines(block_of(record)) for name, record in records.items() if record.taken}
    if taken:
        yaml.dump(taken, text)
    write_atomically(file, HEAD + text.getvalue())


def _in_lines(block: dict[str, Any]) -> dict[str, Any]:
    """Have numbers of seeds stand in one line each."""
    looks = [{**one, "seeds": _flow(one["seeds"])} for one in block["taken"]]
    return {**block, "looks": _flow(block["looks"]), "taken": looks}


def block_of(record: Record) -> dict[str, Any]:
    """An experiment's block, of plain values."""
    return {
        "looks": list(record.looks),
        "level": record.level,
        **({"of": record.of} if record.of else {}),
        **({"data": record.data} if record.data else {}),
        "taken": [
            {
                "look": row.look,
                "seeds": list(row.seeds),
                "contrasts": [
                    {
                        "arm": arm,
                        "baseline": baseline,
                        "p": _rounded(found.p),
                        "p_tie": _rounded(found.p_tie),
                        "verdict": str(found.verdict),
                    }
                    for (arm, baseline), found in row.found.items()
                ],
            }
            for row in record.taken
        ],
    }


def _flow(values: list[int]) -> Any:
    made = CommentedSeq(values)
    made.fa.set_flow_style()
    return made


def _rounded(p: float) -> float | None:
    return None if math.isnan(p) else float(f"{p:.{PLACES}g}")
