"""`python -m hpdm_eval.gpu_bench` is `hpdm-eval bench gpu` from a source tree that is not installed."""

from hpdm_eval.commands.bench_gpu import gpu

if __name__ == "__main__":
    gpu(prog_name="python -m hpdm_eval.gpu_bench")
