"""`hpdm-eval ls`: what there is: metrics, backbones, protocols, sizes."""

import json
from dataclasses import asdict
from typing import Any

import click

from hpdm.support.console import Command

KINDS = ("metrics", "backbones", "protocols", "sizes")


@click.command(cls=Command)
@click.argument("what", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects in place of the table.")
def ls(what: str, as_json: bool) -> None:
    """List metrics, backbones, protocols or sizes of models, those of other packages included.

    A metric says what it needs, whether higher is better, what it costs beside a pass of the network, under which
    license its network is, and what a reader of its figure must know.
    """
    from hpdm_eval.support.text_tables import aligned

    rows = {"metrics": _metrics, "backbones": _backbones, "protocols": _protocols, "sizes": _sizes}[what]()
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
    elif rows:
        click.echo(aligned(list(rows[0]), [[_text(value) for value in row.values()] for row in rows]))
        if what == "metrics":
            click.echo("\n" + "\n".join(f"{row['metric']}: {row['caveat']}" for row in _metrics(True) if row["caveat"]))


def _metrics(caveats: bool = False) -> list[dict[str, Any]]:
    from hpdm_eval.metrics.registry import all_metrics

    if caveats:
        return [{"metric": info.name, "caveat": info.caveat} for info in all_metrics()]
    return [
        {
            "metric": info.name,
            "needs": info.needs,
            "better": "higher" if info.higher_is_better else "lower",
            "unit": info.unit,
            "reference": info.reference,
            "network": info.backbone or ("the protocol's" if info.extracts else None),
            "cost": info.cost,
            "license": info.license,
            "from": info.source,
        }
        for info in all_metrics()
    ]


def _backbones() -> list[dict[str, Any]]:
    from hpdm_eval.backbones.registry import all_backbones

    return [asdict(info) for info in all_backbones()]


def _protocols() -> list[dict[str, Any]]:
    from hpdm_eval.protocols import list_protocols

    return [
        {
            "protocol": protocol.name,
            "hash": protocol.hash(),
            "frames": protocol.frames,
            "resolution": list(protocol.resolution) if protocol.resolution else None,
            "backbone": protocol.backbone,
            "title": protocol.title,
        }
        for protocol in list_protocols()
    ]


def _sizes() -> list[dict[str, Any]]:
    from hpdm.config import load_config, sizes

    rows = []
    for name in sizes():
        config = load_config(name)
        video = config.pyramid.resolution(config.pyramid.levels - 1)
        rows.append(
            {
                "size": name,
                "video": "x".join(map(str, video)),
                "levels": config.pyramid.levels,
                "token width": config.network.token_width,
                "latent width": config.network.latent_width,
                "text": bool(config.network.text_width),
            }
        )
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return "-" if value in (None, "") else str(value)
