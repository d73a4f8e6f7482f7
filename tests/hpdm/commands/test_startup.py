"""What a command costs before it begins: help, version and a typing mistake import nothing heavy."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "numpy", "scipy", "av", "PIL", "matplotlib", "safetensors", "hpdm.model", "hpdm_eval"]
CODE = """
import json, sys
from hpdm.commands.entry import {command}
for words in {words}:
    try:
        {command}.main(words)
    except SystemExit as end:
        codes = [*globals().get("codes", []), end.code]
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # KiB
print(json.dumps([codes, [name for name in {heavy} if name in sys.modules], peak / 1024]), file=sys.stderr)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("command", ["train", "sample", "info", "data"])
def test_help_version_and_a_typing_mistake_are_light(command):
    words = [["--help"], ["--version"], ["--nosuch", "1"]]
    code = CODE.format(command=command, words=words, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    codes, heavy, megabytes = json.loads(result.stderr.splitlines()[-1])
    assert codes == [0, 0, 2] and heavy == [] and megabytes < 80
    assert "Usage: " in result.stdout and ", version " in result.stdout and "--nosuch" in result.stderr
