"""What a script left unsaid: the report says that it is not known instead of leaving a gap."""

from lossbench.params import ScriptExperiment
from lossbench.reporting.inputs import Evaluated


def trained_by(one: Evaluated) -> str:
    """The command that trained an experiment, as in params.yaml; "" where Lossbench trained it."""
    experiment = one.experiment
    return " ".join(experiment.task.command) if isinstance(experiment, ScriptExperiment) else ""


def unknown(one: Evaluated) -> list[str]:
    """Say what is not known of an experiment that a script trained, a sentence each."""
    if not isinstance(one.experiment, ScriptExperiment):
        return []
    said = [
        "Whether all losses saw the same initial weights and batches: the script was given the same seeds, "
        "what it draws from them is its own."
    ]
    if "floors" not in one.tables:
        said.append(
            "What predictors reach that need no training: so nothing says whether a loss has "
            "been trained at all."
        )
    if one.history.empty or one.history.groupby(["arm", "seed"])["epoch"].nunique().max() < 2:
        said.append("Learning curves: the script wrote no history.csv.")
    if not one.statistics:
        said.append(
            "How the verdicts would carry over to new test examples: the script wrote no per_example scores."
        )
    said.append("Models, and what they make of single samples: the script keeps them to itself.")
    return said
