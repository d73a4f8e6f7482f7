"""`python -m hpdm_eval.benchmarks.gpu` is `hpdm-eval bench gpu` from a source tree that is not installed."""

from hpdm_eval.benchmarks.gpu_command import gpu

if __name__ == "__main__":
    gpu(prog_name="python -m hpdm_eval.benchmarks.gpu")
