"""Write a trained model as ONNX, checked against torch."""

import argparse
from pathlib import Path

from lossbench.commands.predict import model_arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    model_arguments(parser)
    parser.add_argument("--onnx", type=Path, required=True, help="the file to write")


def main(chosen: argparse.Namespace) -> None:
    """Export."""
    from lossbench.serving.onnx import export, trial_inputs
    from lossbench.serving.source import load_model

    model = load_model(chosen.study, chosen.model, chosen.arm, chosen.seed)
    worst = export(model, trial_inputs(model, chosen.study), chosen.onnx)
    print(f"{chosen.onnx}: written; outputs differ from torch's by {worst:.1e} at most")
