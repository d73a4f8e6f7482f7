"""`hpdm-eval features`: features of any clips, as a file."""

import json
from typing import Any

import click

from hpdm.support.console import OutputFile, common_options
from hpdm_eval.commands.options import metric_options, take_evaluation
from hpdm_eval.commands.recorded import RecordedCommand


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(),
    metavar="DIR|FILE",
    help="Clips: videos, folders of frames, arrays, a zip or tar of them, or a .txt list of files.",
)
@click.option("--out", required=True, type=OutputFile(), metavar="FEATS.npz", help="File to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@metric_options(default="native", reference=False)
@common_options
def features(out: str, as_json: bool, **options: Any) -> None:
    """Write the features of clips to a .npz file.

    It holds `features` [N, D], `names` [N], `probabilities` [N, K] and `manifest`, a JSON text that says which clips,
    network and protocol they come from. With the protocol `native` every frame counts, resized only as the network
    needs.
    """
    evaluation = take_evaluation(options)

    from hpdm_eval.evaluation.reference import make_features

    extracted, backbone = make_features(evaluation)
    extracted.save(out)
    count, dimension = extracted.features.shape
    weights = backbone.weights
    trust = "" if weights.verified else f", weights {weights.trust}"
    click.echo(
        json.dumps(extracted.manifest, ensure_ascii=False)
        if as_json
        else f"{out}: {count} clips, {dimension} features of {backbone.name} ({weights.name}{trust}), "
        f"{evaluation.protocol.label}"
    )
