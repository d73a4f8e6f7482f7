"""`python -m hpdm_eval.benchmarks.gpu` is `hpdm-eval bench gpu` from a source tree that is not installed."""

from hpdm.support.launch import launch

if __name__ == "__main__":
    launch("hpdm_eval.commands.bench_gpu", "gpu", "python -m hpdm_eval.benchmarks.gpu")
