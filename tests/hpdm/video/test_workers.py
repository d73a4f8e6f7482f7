import os
import subprocess
import sys
import time

import pytest

from hpdm.video.workers import JobFailed, Workers
from tests.support.paths import ROOT

FUNCTIONS = """
import ctypes, os, time

def work(job, settings):
    print("printed by a library")
    os.write(1, b"and from C")
    if job == "crash":
        ctypes.string_at(0)
    if job == "exit":
        os._exit(3)
    if job == "hang":
        time.sleep(60)
    while job == "spin":
        pass
    if job == "raise":
        raise ValueError("a fault of ours")
    return job, settings, os.getpid()
"""


@pytest.fixture
def function(tmp_path, monkeypatch):
    (tmp_path / "worker_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return "worker_functions:work"


def test_a_job_that_kills_its_process_costs_itself_alone(function):
    jobs = ["a", "crash", "b", "exit", "c", "crash", "d"]
    with Workers(function, "settings", 2) as pool:
        futures = [pool.submit(job) for job in jobs]
        answers = {}
        for job, future in zip(jobs, futures):
            try:
                answers[job] = future.result()[:2]
            except JobFailed as failure:
                answers[job] = str(failure)
    deaths = {
        "crash": "decoding it killed the process (SIGSEGV)",
        "exit": "decoding it ended the process (exit code 3)",
    }
    assert answers == {**{job: (job, "settings") for job in "abcd"}, **deaths}


def test_a_job_that_hangs_is_stopped(function):
    """One that waits for ever and one that computes for ever."""
    with Workers(function, None, 1, limit=1) as pool:
        futures = [pool.submit(job) for job in ("hang", "spin", "a")]
        for future, reason in zip(futures, ("stood still for 1 s", "took more than 1 s")):
            with pytest.raises(JobFailed, match=reason):
                future.result()
        assert futures[2].result()[0] == "a"


def test_exceptions_reach_the_caller_and_the_process_lives_on(function):
    with Workers(function, None, 1) as pool:
        first = pool.submit("a").result()[2]
        with pytest.raises(ValueError, match="a fault of ours"):
            pool.submit("raise").result()
        assert pool.submit("a").result()[2] == first


def test_closing_ends_processes_at_work(function):
    with Workers(function, None, 1) as pool:
        process = pool.submit("a").result()[2]
        pool.submit("hang")
        start = time.monotonic()
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_module_that_cannot_be_imported_is_our_fault_not_the_file_s(tmp_path):
    with Workers("no_such_module:work", None, 1) as pool, pytest.raises(RuntimeError, match="did not start"):
        pool.submit("a").result()


def test_decoding_does_not_import_torch():
    code = "import sys, hpdm_eval.clips.jobs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
