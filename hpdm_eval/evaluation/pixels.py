"""What the commands that measure pixels, not features, share: options, reading, the record and how it is shown."""

import json
from hashlib import sha256

import click

from hpdm.support.console import OutputFolder, common_options
from hpdm.support.progress import note, progress
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.options import protocol_options, reading_options, take_reading
from hpdm_eval.records.record import make_record, save_record
from hpdm_eval.report.tables import text_table
from hpdm_eval.support.text_tables import aligned_lines as aligned  # noqa: F401 - of the commands on pixels


def pixel_options(function):
    """Add the protocol's options (default: clips as they are), those of reading, --json and --record."""
    for option in (
        click.option(
            "--record", "folder", type=OutputFolder(), metavar="DIR", help="Also save the record in this folder."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
    ):
        function = option(function)
    return protocol_options("native")(reading_options(common_options(function)))


def measure_clips(path, protocol, options, role, measure):
    """([measure(clip) for each clip of `path`], the record's entry for them); only the results are kept."""
    source = open_clips(path, protocol, role=role, **take_reading(options, role))
    results = []
    with progress(total=len(source), unit="clip", description=role, quiet=options["quiet"]) as bar:
        for clip in source:
            results.append(measure(clip))
            bar.update()
    return results, source.summary()


def pixel_record(metric, protocol, settings, *, warnings=(), extra=None, **values):
    """The Record of a metric on pixels.

    settings: the metric's own, JSON-able; they are kept under "settings" and are part of the protocol's hash, so that
    records of different settings do not pass for each other. values: of `make_record`.
    """
    digest = sha256(json.dumps([protocol.hash(), settings], sort_keys=True).encode()).hexdigest()[:12]
    return make_record(
        metric=metric,
        protocol={**protocol.to_dict(), "hash": digest},
        warnings=tuple(warnings),
        extra={"settings": settings, **(extra or {})},
        **values,
    )


def show_record(record, options, lines=()):
    """Print the record as `options` say, with `lines` below its table; save it where they name a folder; return it."""
    for message in record.warnings:
        note(f"warning: {message}", options["quiet"])
    if options["as_json"]:
        click.echo(json.dumps(record.to_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join([text_table([record]), *lines]))
    if options["folder"]:
        note(f"record: {save_record(record, options['folder'])}", options["quiet"])
    return record
