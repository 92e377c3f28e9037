"""Ctrl-C: one sentence, exit code 130, and the next run goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.study_tests.conftest import MakeStudy


def test_interrupt_is_one_sentence(make_encoded_study: MakeStudy, tmp_path: Path) -> None:
    make_encoded_study(training={"epochs": 2000})
    process = subprocess.Popen(
        [sys.executable, "-m", "study", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    activity = tmp_path / "out" / "running.json"
    while not (activity.exists() and json.loads(activity.read_text())["packs"]):  # until packs are in training
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)  # an impatient user
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr.lstrip() == "Interrupted; stopping. Recorded trials are kept: the same command continues.\n"
