"""`python -m hpdm_eval.studies.sampling`."""

from hpdm_eval.studies.sampling.study import main

if __name__ == "__main__":
    main(prog_name="python -m hpdm_eval.studies.sampling")
