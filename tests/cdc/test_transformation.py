"""The tests in Java of the transformation, which Maven runs."""

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from devstack.connect import FOLDER
from tests.support.capture import need_debezium


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_the_transformation_passes_its_own_tests(tmp_path: Path) -> None:
    need_debezium()
    done = subprocess.run(
        ["mvn", "-B", "-q", "-f", FOLDER / "pom.xml", "test", f"-Dbuilt.in={tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    [report] = (tmp_path / "surefire-reports").glob("TEST-*.xml")
    counts = ET.parse(report).getroot().attrib
    assert int(counts["tests"]) > 20
    assert counts["skipped"] == "0"
