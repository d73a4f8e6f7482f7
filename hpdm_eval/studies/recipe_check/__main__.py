"""`python -m hpdm_eval.studies.recipe_check`."""

from hpdm_eval.studies.recipe_check.study import main

if __name__ == "__main__":
    main(prog_name="python -m hpdm_eval.studies.recipe_check")
