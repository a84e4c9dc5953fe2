"""The user's crontab: one marked block per study, put in, replaced and taken out whole."""

import re
import shlex
from pathlib import Path

from lossbench.errors import GateError, UserError
from lossbench.scheduling.address import write_address
from lossbench.scheduling.job import Job, called, expect_own, filled

NEEDS = "on Debian: apt-get install cron"
WHEN = re.compile(r"@(hourly|daily|weekly|monthly)|[0-9A-Za-z*/,-]+( [0-9A-Za-z*/,-]+){4}")


def lines(job: Job, when: str) -> str:
    """Write the job's block.

    Raises:
        UserError: if ``when`` is no schedule of cron's.

    """
    if not WHEN.fullmatch(when):
        raise UserError(
            f"--when is '{when}'; cron takes five fields such as '17 3 * * *' (minute, hour, day, month, "
            "weekday), or @hourly, @daily, @weekly, @monthly"
        )
    words = dict(job.words(when))
    for key in ("STUDY", "BIN"):
        words[key] = shlex.quote(words[key]).replace("%", r"\%")  # % is a line end to cron
    return filled("crontab", words)


def install(job: Job, when: str) -> str:
    """Put the job's block into the user's crontab, in place of an earlier one; says so."""
    block = lines(job, when)
    expect_own(job, _study_in(job, _read()))
    address = write_address(job.study, address_file(job))
    _write(_without(job, _read()) + block)
    if block not in _read():
        raise GateError("crontab took the lines but does not show them")
    return (
        f"cron: '{job.name}' runs at '{when}'; its log is {job.study / '.lossbench' / job.name}.log" + address
    )


def address_file(job: Job) -> Path:
    """Find the file that a tick takes the tracking server's address from."""
    return job.study / ".lossbench" / f"{job.name}.env"


def remove(job: Job) -> str:
    """Take the job's block out; all other lines stay."""
    before = _read()
    expect_own(job, _study_in(job, before))
    after = _without(job, before)
    if after == before:
        return f"cron: no '{job.name}' is scheduled; nothing to do"
    _write(after)
    address_file(job).unlink(missing_ok=True)
    return f"cron: '{job.name}' is no longer scheduled"


def _without(job: Job, table: str) -> str:
    return _block(job).sub("", table)


def _block(job: Job) -> re.Pattern[str]:
    name = re.escape(job.name)
    return re.compile(rf"^# begin {name} .*?^# end {name}\n", re.MULTILINE | re.DOTALL)


def _study_in(job: Job, table: str) -> Path | None:
    """Find the study whose block stands under the job's name; None where there is none."""
    block = _block(job).search(table)
    place = block and re.search(r" cd (.*?) && mkdir ", block[0])
    return Path(shlex.split(place[1].replace(r"\%", "%"))[0]) if place else None


def _read() -> str:
    try:
        return called(["crontab", "-l"], NEEDS)
    except GateError as error:
        if "no crontab for" in str(error):
            return ""
        raise


def _write(table: str) -> None:
    called(["crontab", "-"], NEEDS, table)
