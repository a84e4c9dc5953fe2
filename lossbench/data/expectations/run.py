"""Running the suite with Great Expectations, and saying in sentences what failed."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.data.dataset import Dataset
from lossbench.data.expectations.extra import extra_file, read_extra
from lossbench.data.expectations.suite import Expected, suite
from lossbench.data.expectations.tables import name_boxes, tables
from lossbench.errors import GateError, UserError, nearest
from lossbench.params import Expectations
from lossbench.written import DOCS, make_room

EXAMPLES = 5


def validate(folder: Path, knobs: Expectations, name: str, report: Path, docs: Path) -> None:
    """Hold ``data/<dataset>`` against its expectations.

    Args:
        folder: data/<dataset>.
        knobs: thresholds, severities and the user's own expectations.
        name: of the dataset.
        report: the JSON to write (an out: no times, no ids, no paths).
        docs: where Great Expectations keeps its context and builds the Data Docs (no out).

    Raises:
        GateError: a sentence per failed critical expectation, with example rows; or nothing was evaluated.

    """
    data = Dataset.open(folder)
    info, manifest = data.info, pd.read_parquet(folder / "manifest.parquet")
    if info.kind == "boxes":
        name_boxes(manifest, data)
    extra = read_extra(extra_file(knobs.extra)) if knobs.extra else []
    results = run_suite(tables(manifest, info), suite(info, knobs, extra), name, docs)
    failed = [one for one in results if not one["success"] and one["severity"] == "critical"]
    evaluated = sum(one["evaluated"] for one in results)
    content = {
        "dataset": name,
        "success": not failed and evaluated > 0,
        "evaluated": evaluated,
        "expectations": results,
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _say(results, name)
    if evaluated == 0:
        raise GateError(f"dataset '{name}': no expectation was evaluated; that is a failure, not a success")
    if failed:
        raise GateError("\n".join(f"dataset '{name}': {describe(one)}" for one in failed))


def describe(result: Mapping[str, Any]) -> str:
    """Say one failed expectation in a sentence, with example rows."""
    text = f"expected that {result['sentence']} ({result['name']}), but found {result['observed']}"
    if result["examples"]:
        text += f"; for example {', '.join(map(str, result['examples']))}"
    return text


def _say(results: Sequence[Mapping[str, Any]], name: str) -> None:
    passed = sum(one["success"] for one in results)
    print(f"{name}: {passed} of {len(results)} expectations met")
    for one in results:
        if not one["success"]:
            print(f"  {one['severity']}: {describe(one)}")


def run_suite(
    frames: Mapping[str, pd.DataFrame], wanted: Sequence[Expected], name: str, docs: Path
) -> list[dict[str, Any]]:
    """Run the expectations table by table; results come in the order wanted."""
    gx = great_expectations()
    context = fresh_context(gx, docs)
    results = run_tables(gx, context, frames, wanted, name)
    context.build_data_docs()
    return results


def run_tables(
    gx: Any, context: Any, frames: Mapping[str, pd.DataFrame], wanted: Sequence[Expected], name: str
) -> list[dict[str, Any]]:
    """Run the expectations in a given context."""
    found: dict[str, dict[str, Any]] = {}
    for table, frame in frames.items():
        chosen = [one for one in wanted if one.table == table]
        if chosen:
            found |= _run_table(gx, context, f"{name}_{table}", frame, chosen)
    return [found[one.name] for one in wanted]


def great_expectations() -> Any:
    """Import Great Expectations, quiet: it costs seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    warnings.filterwarnings("ignore", module="great_expectations")
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return gx


def fresh_context(gx: Any, docs: Path) -> Any:
    """Make a file context of its own in ``docs``, so that datasets validated side by side do not meet."""
    # Data Docs show the latest run; a context left behind by a killed run may be half-written.
    make_room(docs, DOCS, known=True)
    docs.mkdir(parents=True)
    context = gx.get_context(mode="file", project_root_dir=docs)
    context.variables.progress_bars = {"globally": False}
    context.variables.save()
    return context


def _run_table(
    gx: Any, context: Any, key: str, frame: pd.DataFrame, wanted: Sequence[Expected]
) -> dict[str, dict[str, Any]]:
    asset = context.data_sources.add_or_update_pandas(key).add_dataframe_asset(key)
    batch = asset.add_batch_definition_whole_dataframe(key)
    made = gx.ExpectationSuite(name=key, expectations=[build(gx, one) for one in wanted])
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name=key, data=batch, suite=context.suites.add_or_update(made))
    )
    result = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["id"]},
    )
    by_name = {one.expectation_config.meta["name"]: one for one in result.results}
    return {one.name: _result(one, by_name.get(one.name)) for one in wanted}


def build(gx: Any, expected: Expected) -> Any:
    """Build a Great Expectations object.

    Raises:
        UserError: for a type that does not exist or arguments it does not take.

    """
    known = [name for name in dir(gx.expectations) if name.startswith("Expect")]
    if expected.type not in known:
        raise UserError(
            f"expectation '{expected.name}': no type '{expected.type}'; {nearest(expected.type, known)}"
        )
    try:
        return getattr(gx.expectations, expected.type)(
            **expected.arguments, severity=expected.severity, meta={"name": expected.name}
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"expectation '{expected.name}' ({expected.type}): {' '.join(str(error).split())[:300]}"
        ) from None


def _result(expected: Expected, result: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": expected.name,
        "table": expected.table,
        "type": expected.type,
        "severity": expected.severity,
        "sentence": expected.sentence,
        "evaluated": 0,
        "success": False,
        "observed": "nothing: it was not evaluated",
        "examples": [],
    }
    if result is None:
        return entry
    if error := _exception(result.exception_info):
        return entry | {"observed": f"an error: {error}"}
    detail = dict(result.result)
    entry |= {"evaluated": 1, "success": bool(result.success), "observed": _observed(detail)}
    index = detail.get("partial_unexpected_index_list") or []
    entry["examples"] = [row["id"] for row in index if "id" in row][:EXAMPLES]
    return entry


def _exception(info: Mapping[str, Any]) -> str | None:
    """Find the message of what an expectation raised: at the top, or below the metric that raised it."""
    for one in (info, *(value for value in info.values() if isinstance(value, Mapping))):
        if one.get("raised_exception"):
            return " ".join(str(one.get("exception_message")).split())
    return None


def _observed(detail: Mapping[str, Any]) -> str:
    if "unexpected_count" in detail:
        values = detail.get("partial_unexpected_list") or []
        distinct = list(dict.fromkeys(str(_plain(one)) for one in values))[:EXAMPLES]
        text = f"{detail['unexpected_count']} of {detail['element_count']} rows otherwise"
        return f"{text} ({', '.join(distinct)})" if distinct else text
    observed = detail.get("observed_value")
    return ", ".join(map(str, observed)) if isinstance(observed, list) else str(observed)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return round(value, 6) if isinstance(value, float) else value
