"""`hpdm-eval efficiency`: what patches save in memory and time, table 1 of the paper."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from hpdm.support.console import OutputFolder, common_options, own_folder
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.records.record import Record, command_line
from hpdm_eval.support.text_tables import aligned

UNITS = {"throughput": "videos/s", "memory": "GiB", "flops": "TFLOP"}


@click.command(cls=RecordedCommand)
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="Folder of the records.")
@click.option("--size", help="Size that is measured here, or a file of settings.  [nano, on a GPU S]")
@click.option("--paper-size", default="S", show_default=True, help="Size that is counted at the paper's resolutions.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Videos per step when speed is measured.  [on a GPU as many as fit, else 4]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Each row is timed so often, in turn; the median counts.",
)
@click.option("--measure/--no-measure", default=True, show_default=True, help="Time the rows on this device.")
@common_options
def efficiency(
    out: Path,
    size: str | None,
    paper_size: str,
    batch: int | None,
    rounds: int,
    measure: bool,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Compare a network on whole videos with patch pyramids of two patch sizes.

    Measured on this device at a size that fits: videos per second and memory of training steps. Counted on tensors
    without data at the paper's sizes: FLOPs and memory. Run it alone: another process on the cores spoils what is
    measured.
    """
    from hpdm.config import load_config
    from hpdm.config.variants import alternatives
    from hpdm.support.environment import choose_device, hardware
    from hpdm_eval.studies.ablations.efficiency import computed, describe_size, enlarged, measured
    from hpdm_eval.studies.ablations.measure import Records

    place = choose_device(device)
    own_folder(out)
    on_gpu = place.type == "cuda"
    records = Records(out / "records", "gpu" if on_gpu else "cpu", command_line())
    overrides = [f"training.seed={seed}", "training.activation_checkpointing=false"]
    base_name = size or ("S" if on_gpu else "nano")
    paper = load_config(paper_size, overrides)
    larger = enlarged(paper)
    made = computed(alternatives(paper), describe_size(paper), records=records, quiet=quiet)
    made += computed(larger, describe_size(larger["full"]), records=records, quiet=quiet)
    if measure:
        base = load_config(base_name, overrides)
        made = (
            measured(
                alternatives(base),
                describe_size(base),
                batch=batch or (None if on_gpu else 4),
                rounds=rounds,
                device=place,
                records=records,
                quiet=quiet,
            )
            + made
        )
    sizes = {"measured": f"{base_name}, on {hardware(place)}", "computed": f"size {paper_size}, not run"}
    click.echo("\n\n".join(_tables(made, sizes)) + f"\n\nrecords are in {out / 'records'}")


def _tables(records: Iterable[Record], sizes: Mapping[str, str]) -> Iterator[str]:
    """A table for each size of video, whose title says whether it was measured or computed."""
    tables: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for record in records:
        rows = tables.setdefault((record.extra["basis"], record.extra["target"]), {})
        factor = 1e-12 if record.metric == "flops" else 1
        rows.setdefault(record.extra["variant"], {})[UNITS[record.metric]] = f"{record.value * factor:.3g}"
    for (basis, target), rows in tables.items():
        header = ["", *next(iter(rows.values()))]
        body = [[name, *cells.values()] for name, cells in rows.items()]
        yield f"{target}, {basis}: {sizes[basis]}\n" + aligned(header, body, right=header[1:])
