"""The `lossbench` command: every verb in one place, each imported when it is called."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import lossbench
from lossbench.errors import UserError
from lossbench.telling import exit_code

VERBS = {
    "new": "begin a study in your own repository: params.yaml, dvc.yaml and all that a run needs",
    "run": "run a study: check, data, all trainings at once, evaluation, report, record",
    "look": "take the next declared look: further seeds of what is undecided, and a verdict",
    "params": "print every key of params.yaml with what is allowed and its default",
    "plan": "say what a run would train, and about how long it takes",
    "summary": "print the result again",
    "verdict": "judge scores that you have: a table of loss, seed and score, or MLflow runs",
    "seeds": "say how many seeds a comparison needs, before any training",
    "track": "complete the record in MLflow from outs and journals",
    "ui": "serve the MLflow UI on 127.0.0.1 and print where to look",
    "new-study": "turn a folder of images into a further study, studies/NAME, ready to run",
    "lock": "write down which Lossbench is installed (lossbench.lock), for `dvc repro` to go on with it",
    "predict": "classify (segment, …) image files with a trained model",
    "export": "write a trained model as ONNX, checked against torch",
    "retrain": "retrain if anything is new; promote the winner or keep the champion",
    "rollback": "give the former champion its place back",
    "serve": "answer over HTTP with the version that an alias names, and follow it",
    "backup": "back up MLflow's store, its artifacts and the records",
    "restore": "put a backup back into a study, wherever that lies now",
    "schedule": "have cron or systemd call `lossbench retrain`, or systemd serve the champion",
    "doctor": "find and repair what crashes left behind",
    "clean": "remove what the chain wrote in a study; yours, MLflow's record and DVC's cache stay",
    "store": "list, verify and prune what was computed",
}

EXTRAS = {
    "train": {
        "torch",
        "sklearn",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "ruamel",
        "safetensors",
        "tqdm",
    },
    "pipeline": {
        *("dvc", "mlflow", "great_expectations", "torchvision", "pandas", "pyarrow", "statsmodels", "PIL"),
        *("tifffile", "imagecodecs", "altair", "vl_convert", "jinja2", "markupsafe", "psutil", "filelock"),
        *("packaging", "pooch", "fsspec", "pycocotools", "defusedxml", "onnx", "onnxscript", "onnxruntime"),
        *("google", "requests", "sqlalchemy", "starlette", "uvicorn", "voluptuous"),
    },
}
"""Extra of the package → what it, or what it brings, is imported as; `pipeline` brings `train` too."""


class _Version(argparse.Action):
    """Looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("lossbench", lossbench.__version__)
        parser.exit()


def main() -> None:
    """Parse the command line and run a verb; exits with its code."""
    parser = argparse.ArgumentParser(
        prog="lossbench",
        description="Which loss should I train with, on my data?",
        epilog="`lossbench VERB --help` says more. Exit codes: 0 done; 1 something failed, or a gate stays "
        "closed; 2 bad input, said in one sentence.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    asked = next((word for word in sys.argv[1:] if word in VERBS), None)
    parsers = {verb: verbs.add_parser(verb, help=told, description=told) for verb, told in VERBS.items()}
    codes: list[int | None] = []

    def call() -> None:
        if asked is not None:
            module = import_module(f"lossbench.commands.{asked.replace('-', '_')}")
            module.arguments(parsers[asked])
            parsers[asked].set_defaults(main=module.main)
        chosen = parser.parse_args()
        codes.append(chosen.main(chosen))

    sys.exit(exit_code(lambda: _with_packages(call)) or codes[0] or 0)


def _with_packages(call: Callable[[], None]) -> None:
    """Say which extra brings a package that is not installed.

    Raises:
        UserError: naming both.

    """
    try:
        call()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        raise UserError(
            f"this needs the package '{package}', which is not installed; "
            f"`pip install 'lossbench[{extra}]'` brings it"
        ) from None


if __name__ == "__main__":
    main()
