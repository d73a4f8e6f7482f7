"""`python -m hpdm_eval.studies.text_to_video`."""

from hpdm_eval.studies.text_to_video.study import main

if __name__ == "__main__":
    main(prog_name="python -m hpdm_eval.studies.text_to_video")
