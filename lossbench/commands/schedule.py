"""Put a study's retraining on a schedule, or its champion into service; or take it off; `show` only prints.

python -m lossbench schedule install cron                         every night at 03:17, as you
sudo .venv/bin/python -m lossbench schedule install systemd       likewise, made up for if it was off
sudo .venv/bin/python -m lossbench schedule install serving       answer with the champion, and follow it
python -m lossbench schedule install cron --when '*/30 * * * *' --study studies/mine
"""

import argparse
from pathlib import Path

from lossbench.params import load_params

NIGHTLY = {"cron": "17 3 * * *", "systemd": "*-*-* 03:17:00"}


def put(action: str, scheduler: str, when: str, study: Path, name: str = "") -> None:
    """Install, remove or show the schedule."""
    from lossbench.scheduling import cron, systemd
    from lossbench.scheduling.job import Job

    job = Job.of(study, name)
    if scheduler == "serving":
        model = load_params(job.study / "params.yaml").retraining.model_name
        if action == "show":
            print("\n".join(systemd.service(job, model).values()), end="")
            return
        chosen_service = systemd.install_service if action == "install" else systemd.remove_service
        print(chosen_service(job, model))
        return
    if action == "show":
        shown = cron.lines(job, when) if scheduler == "cron" else "\n".join(systemd.units(job, when).values())
        print(shown, end="")
        return
    chosen = cron if scheduler == "cron" else systemd
    print(chosen.install(job, when) if action == "install" else chosen.remove(job))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("action", choices=["install", "remove", "show"])
    parser.add_argument("scheduler", choices=["cron", "systemd", "serving"])
    parser.add_argument("--when", help="in the scheduler's own words; default: every night at 03:17")
    parser.add_argument("--study", type=Path, default=Path(), help="folder with a params.yaml")
    parser.add_argument("--name", default="", help="of the schedule; default: the study's folder")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    when = chosen.when or NIGHTLY.get(chosen.scheduler, "")
    put(chosen.action, chosen.scheduler, when, chosen.study, chosen.name)
