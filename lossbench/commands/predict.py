"""Classify (segment, …) image files with a trained model."""

import argparse
from pathlib import Path

from lossbench.commands.study import study_argument


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model."""
    study_argument(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="of MLflow's registry: models:/NAME@champion")
    source.add_argument("--arm", help="trained here: a name under 'arms' in params.yaml")
    parser.add_argument("--seed", type=int, help="of the arm's replicate (default: median validation score)")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("files", nargs="+", type=Path, help="images")
    model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with all probabilities")


def main(chosen: argparse.Namespace) -> None:
    """Predict."""
    from lossbench.serving.files import predict_files
    from lossbench.serving.source import load_model

    model = load_model(chosen.study, chosen.model, chosen.arm, chosen.seed)
    predict_files(model, chosen.files, chosen.json)
