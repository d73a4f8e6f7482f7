"""`hpdm-eval features`: features of any clips, as a file."""

import json

import click

from hpdm.support.console import OutputFile, common_options
from hpdm.support.environment import choose_device, git_revision, hardware, package_versions
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.options import metric_options, take_protocol, take_reading
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import open_backbone
from hpdm_eval.features.cache import open_cache
from hpdm_eval.features.extraction import FeatureSet, extract_features
from hpdm_eval.records.record import command_line, utc_now


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
@metric_options(default="native")
@common_options
def features(samples, out, as_json, **options):
    """Write the features of clips to a .npz file.

    It holds `features` [N, D], `names` [N], `probabilities` [N, K] and `manifest`, a JSON text that says which clips,
    network and protocol they come from. With the protocol `native` every frame counts, resized only as the network
    needs.
    """
    protocol = take_protocol(options)
    device = choose_device(options["device"])
    source = open_clips(samples, protocol, role="samples", **take_reading(options, "samples"))
    backbone = open_backbone(protocol, options, device)
    source.min_frames, source.shared = backbone.min_frames, True
    extracted = extract_features(
        source, backbone, batch=options["batch"], quiet=options["quiet"], cache=open_cache(backbone, options)
    )
    manifest = {
        **extracted.manifest,
        "protocol": {**protocol.to_dict(), "hash": protocol.hash()},
        "samples": source.summary(),
        "seed": options["seed"],
        "command": command_line(),
        "versions": package_versions(),
        "hardware": hardware(device),
        "git": git_revision(),
        "created": utc_now(),
    }
    FeatureSet(
        features=extracted.features, names=extracted.names, probabilities=extracted.probabilities, manifest=manifest
    ).save(out)
    count, dimension = extracted.features.shape
    trust = "" if backbone.weights.verified else f", weights {backbone.weights.trust}"
    click.echo(
        json.dumps(manifest, ensure_ascii=False)
        if as_json
        else f"{out}: {count} clips, {dimension} features of {backbone.name} ({backbone.weights.name}{trust}), "
        f"{protocol.label}"
    )


# The only clips are --samples, read with --grid.
features.params = [parameter for parameter in features.params if parameter.name != "reference_grid"]
