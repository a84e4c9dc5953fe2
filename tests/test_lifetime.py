"""How a process begins and ends."""

import subprocess
import sys

LEAVING = """
import atexit, gc, sys
from lossbench.lifetime import collect_rarely
print(gc.get_threshold()[0])
atexit.register(lambda: print("handled"))
collect_rarely()
print(gc.get_threshold()[0])
file = open(sys.argv[1], "w")  # left open
file.write("whole")
"""


def test_collecting_rarely_a_process_still_runs_its_handlers_and_ends_its_files(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING, str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    before, after, handled = ended.stdout.split()
    assert int(after) > int(before)
    assert handled == "handled"
    assert (tmp_path / "file").read_text() == "whole"
