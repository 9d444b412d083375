"""What a run shows of its progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import time

from tests.commands import COMMAND_S, ROOT

SHOW = """
import time
from training.progress import Bar
print("begins")
with Bar("pretraining", 40) as bar:
    for step in range(1, 41):
        time.sleep(0.02)
        bar.show(step, f"loss {4 - step / 20:.1f}")
        if step == 20:
            bar.say("held-out loss 2.0 [half]")
"""
ENV = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PATH": os.environ["PATH"]}


def on_a_terminal(columns: int) -> str:
    """Return all that is written to a terminal of 24 rows, with its control sequences."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", SHOW], stdout=theirs, stderr=theirs, env=ENV)
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + COMMAND_S
    try:
        while time.monotonic() < deadline:
            seen += os.read(ours, 65536)
    except OSError:  # its last process has closed it
        pass
    os.close(ours)
    assert process.wait(timeout=COMMAND_S) == 0, seen
    return seen.decode()


def plain(text: str) -> str:
    """Return the text without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    """The bar is drawn over itself: what was said meanwhile stands above it, as it is."""
    seen = on_a_terminal(columns=120)
    assert "\x1b[" in seen and "\r" in seen
    text = plain(seen)
    drawn = re.findall(r"pretraining .*?(\d+)/40 0:00:0\d (\S+) loss (\S+)", text)
    assert len(drawn) > 2
    assert drawn[-1][0] == "40" and drawn[-1][1] == "0:00:00" and drawn[-1][2].startswith("2.0")
    assert any(re.fullmatch(r"0:00:0\d", left) for _, left, _ in drawn[:-1])
    assert "held-out loss 2.0 [half]\r\n" in text
    assert " left" not in text


def test_a_pipe_gets_plain_lines() -> None:
    """The first step, what was said, and the last: never more than a line in ten seconds."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, env=ENV, timeout=COMMAND_S
    )
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"pretraining: 1 of 40 steps, loss 4\.0?.*, 0:\d\d left", lines[1])
    assert lines[0] == "begins"
    assert lines[2:] == [
        "held-out loss 2.0 [half]",
        "pretraining: 40 of 40 steps, loss 2.0, 0:00 left",
    ]
