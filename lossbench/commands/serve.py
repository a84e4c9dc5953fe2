"""Answer over HTTP with the version that an alias names, and follow the alias."""

import argparse
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument
from lossbench.params import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--model", help="default: models:/NAME@champion of the study's retraining")
    parser.add_argument("--host", default="127.0.0.1", help="leave it, and put a proxy with TLS before it")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two looks at the alias")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and serve."""
    from lossbench.serving.unit import serve

    enter_study(chosen.study)
    model = chosen.model or f"models:/{load_params().retraining.model_name}@champion"
    serve(Path(), model, chosen.host, chosen.port, chosen.every)
