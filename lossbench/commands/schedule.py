"""Put a study's retraining on a schedule of cron or systemd, or take it off; `show` only prints.

python -m lossbench schedule install cron                         every night at 03:17, as you
sudo .venv/bin/python -m lossbench schedule install systemd       likewise, made up for if it was off
python -m lossbench schedule install cron --when '*/30 * * * *' --study studies/mine
"""

import argparse
from pathlib import Path

NIGHTLY = {"cron": "17 3 * * *", "systemd": "*-*-* 03:17:00"}


def put(action: str, scheduler: str, when: str, study: Path) -> None:
    """Install, remove or show the schedule."""
    from lossbench.scheduling import cron, systemd
    from lossbench.scheduling.job import Job

    job = Job.of(study)
    if action == "show":
        shown = cron.lines(job, when) if scheduler == "cron" else "\n".join(systemd.units(job, when).values())
        print(shown, end="")
        return
    chosen = cron if scheduler == "cron" else systemd
    print(chosen.install(job, when) if action == "install" else chosen.remove(job))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("action", choices=["install", "remove", "show"])
    parser.add_argument("scheduler", choices=["cron", "systemd"])
    parser.add_argument("--when", help="in the scheduler's own words; default: every night at 03:17")
    parser.add_argument("--study", type=Path, default=Path(), help="folder with a params.yaml")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    when = chosen.when or NIGHTLY[chosen.scheduler]
    put(chosen.action, chosen.scheduler, when, chosen.study)
