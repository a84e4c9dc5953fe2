"""Hold one dataset against its expectations; a failed critical one stops the chain."""

from pathlib import Path

from lossbench.outs import Outs
from lossbench.params import Params
from stages.common import run_stage


def main(params: Params, dataset: str) -> None:
    """Read data/<dataset>, write reports/validation/<dataset>.json and, where all is well, .passed."""
    from lossbench.data.expectations import validate

    out = Path("reports/validation")
    passed = out / f"{dataset}.passed"
    passed.unlink(missing_ok=True)
    validate(
        Path("data") / dataset,
        params.datasets[dataset].expectations,
        dataset,
        report=out / f"{dataset}.json",
        docs=Outs().home / "gx" / dataset,
    )
    passed.write_text("passed\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main, "dataset", lambda params: params.datasets)
