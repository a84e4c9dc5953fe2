"""The `lossbench` command: new-study, predict, export, serve, retrain, rollback, backup, restore."""

import argparse
import sys
from pathlib import Path

from lossbench.errors import exit_code
from lossbench.params import load_params


def main() -> None:
    """Parse the command line and run a command."""
    parser = argparse.ArgumentParser(
        prog="lossbench", description="Which loss should I train with, on my data?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser(
        "new-study", help="turn a folder of images into a study, ready for `dvc repro`"
    )
    study.add_argument("name", help="of the study: studies/NAME")
    study.add_argument("data", type=Path, help="one folder per class, or images/ and masks/")
    study.set_defaults(run=lambda chosen: _new_study(chosen.name, chosen.data))
    _add_predict(commands)
    _add_export(commands)
    _add_service(commands)
    chosen = parser.parse_args()
    sys.exit(exit_code(lambda: chosen.run(chosen)))


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    made = commands.add_parser("predict", help="classify (segment, …) image files with a trained model")
    made.add_argument("files", nargs="+", type=Path, help="images")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="of MLflow's registry: models:/NAME@champion")
    source.add_argument("--arm", help="trained here: a name under 'arms' in params.yaml")
    made.add_argument("--seed", type=int, help="of the arm's replicate (default: median validation score)")
    made.add_argument("--json", action="store_true", help="a JSON object a line, with all probabilities")
    made.set_defaults(run=_predict)


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    made = commands.add_parser("export", help="write a trained model as ONNX, checked against torch")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="of MLflow's registry: models:/NAME@champion")
    source.add_argument("--arm", help="trained here: a name under 'arms' in params.yaml")
    made.add_argument("--seed", type=int, help="of the arm's replicate (default: median validation score)")
    made.add_argument("--onnx", type=Path, required=True, help="the file to write")
    made.set_defaults(run=_export)


def _predict(chosen: argparse.Namespace) -> None:
    from lossbench.serving.files import predict_files
    from lossbench.serving.source import load_model

    predict_files(load_model(Path(), chosen.model, chosen.arm, chosen.seed), chosen.files, chosen.json)


def _export(chosen: argparse.Namespace) -> None:
    from lossbench.serving.onnx import export, trial_inputs
    from lossbench.serving.source import load_model

    model = load_model(Path(), chosen.model, chosen.arm, chosen.seed)
    worst = export(model, trial_inputs(model, Path()), chosen.onnx)
    print(f"{chosen.onnx}: written; outputs differ from torch's by {worst:.1e} at most")


def _new_study(name: str, data: Path) -> None:
    from lossbench.studies import new_study

    folder = new_study(name, data, Path())
    print(f"{folder}: ready. Look at {folder / 'params.yaml'}, then run: make repro STUDY={folder}")


if __name__ == "__main__":
    main()


def _add_service(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add what keeps a champion in service."""
    from stages import retrain

    made = commands.add_parser("serve", help="answer over HTTP with the version that an alias names")
    made.add_argument("--model", required=True, help="of MLflow's registry: models:/NAME@champion")
    made.add_argument("--host", default="127.0.0.1", help="leave it, and put a proxy with TLS before it")
    made.add_argument("--port", type=int, default=5001)
    made.add_argument("--every", type=float, default=3.0, help="seconds between two looks at the alias")
    made.set_defaults(run=_serve)
    made = commands.add_parser("retrain", help=retrain.__doc__, epilog=retrain.EPILOG)
    retrain.options(made)
    made.set_defaults(run=_retrain)
    made = commands.add_parser("rollback", help="give the former champion its place back")
    made.set_defaults(run=_rollback)
    made = commands.add_parser("backup", help="back up MLflow's store, its artifacts and the records")
    made.add_argument("folder", type=Path, help="that does not exist yet")
    made.set_defaults(run=_backup)
    made = commands.add_parser("restore", help="put a backup back into the study of this folder")
    made.add_argument("folder", type=Path, help="that `lossbench backup` wrote")
    made.set_defaults(run=_restore)


def _serve(chosen: argparse.Namespace) -> None:
    from lossbench.serving.unit import serve

    serve(Path(), chosen.model, chosen.host, chosen.port, chosen.every)


def _retrain(chosen: argparse.Namespace) -> None:
    from stages.retrain import main

    code = main(chosen)
    if code:
        sys.exit(code)


def _rollback(_chosen: argparse.Namespace) -> None:
    from lossbench.retraining.run import rollback

    rollback(load_params(), Path.cwd())


def _backup(chosen: argparse.Namespace) -> None:
    from lossbench.retraining.backup import backup

    backup(Path.cwd(), chosen.folder)


def _restore(chosen: argparse.Namespace) -> None:
    from lossbench.retraining.backup import restore

    restore(Path.cwd(), chosen.folder)
