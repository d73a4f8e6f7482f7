"""Commands in several processes."""

import os
import socket
import subprocess
import sys

from tests.support.paths import ROOT


def free_ports(count):
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_processes(words, tmp_path, code=0, count=2):
    """[stdout, stderr] of each of several processes on one evaluation; all end with the same exit code."""
    (port,) = free_ports(1)
    environment = os.environ | {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HPDM_EVAL_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", "from hpdm_eval.commands.entry import main; main()", *words]
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    outputs = []
    for process in processes:
        outputs.append(process.communicate(timeout=300))
        assert process.returncode == code, outputs
    return outputs
