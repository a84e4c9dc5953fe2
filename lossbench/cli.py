"""The `lossbench` command: every verb in one place, each imported when it is called."""

import argparse
import sys
from importlib import import_module
from typing import Any

import lossbench
from lossbench.errors import exit_code

VERBS = {
    "run": "run a study: check, data, all trainings at once, evaluation, report, record",
    "look": "take the next declared look: further seeds of what is undecided, and a verdict",
    "params": "print every key of params.yaml with what is allowed and its default",
    "plan": "say what a run would train, and about how long it takes",
    "summary": "print the result again",
    "verdict": "judge scores that you have: a table of loss, seed and score, or MLflow runs",
    "seeds": "say how many seeds a comparison needs, before any training",
    "track": "complete the record in MLflow from outs and journals",
    "ui": "serve the MLflow UI on 127.0.0.1 and print where to look",
    "new-study": "turn a folder of images into a study, ready to run",
    "predict": "classify (segment, …) image files with a trained model",
    "export": "write a trained model as ONNX, checked against torch",
    "retrain": "retrain if anything is new; promote the winner or keep the champion",
    "rollback": "give the former champion its place back",
    "serve": "answer over HTTP with the version that an alias names, and follow it",
    "backup": "back up MLflow's store, its artifacts and the records",
    "restore": "put a backup back into a study, wherever that lies now",
    "schedule": "print what a scheduler needs to call `lossbench retrain`",
    "doctor": "find and repair what crashes left behind",
    "clean": "remove what the chain wrote in a study; yours, MLflow's record and DVC's cache stay",
    "store": "list, verify and prune what was computed",
}


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
    for verb, told in VERBS.items():
        one = verbs.add_parser(verb, help=told, description=told)
        if verb == asked:
            module = import_module(f"lossbench.commands.{verb.replace('-', '_')}")
            module.arguments(one)
            one.set_defaults(main=module.main)
    chosen = parser.parse_args()
    codes: list[int | None] = []
    refused = exit_code(lambda: codes.append(chosen.main(chosen)))
    sys.exit(refused or codes[0] or 0)


if __name__ == "__main__":
    main()
