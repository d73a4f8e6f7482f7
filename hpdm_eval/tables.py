"""Records as tables: aligned text for the terminal, markdown for files.

A row names its metric together with the backbone, and its protocol together with the hash of the settings. Marks
point to notes below the table: settings changed from the named protocol, weights of unknown origin, warnings.
"""

from hpdm_eval.rejections import reason_counts

COLUMNS = ("metric", "value", "protocol", "samples", "reference", "seed")
FEW_NAMES = 5
RIGHT_ALIGNED = ("value", "samples", "reference", "seed")


def metric_label(record):
    """`fvd[i3d-kinetics400]`: the metric and the network behind it; the bare metric where there is none."""
    return f"{record.metric}[{record.backbone['name']}]" if record.backbone else record.metric


def protocol_label(record):
    """`hpdm-16f@0123456789ab`: the protocol's name and the hash of its settings.

    In brackets what the name alone would not let a reader expect: `(split not applied)`, `(exact numerics)`, prefixes.
    """
    name, digest = record.protocol["name"], record.protocol.get("hash")
    label = f"{name}@{digest}" if digest else name
    told = "; ".join(label_remarks(record.protocol, record.reference))
    return f"{label} ({told})" if told else label


def label_remarks(protocol, reference):
    """What belongs into the label of a figure, in words. protocol, reference: as a record holds them."""
    if split_is_missing(protocol, reference):
        yield "split not applied"
    if "numerics=exact" in (protocol.get("overrides") or ()):
        yield "exact numerics"
    yield from subset_remarks(protocol)


def subset_remarks(protocol):
    """Words on each side of which a protocol, as a dict, takes a prefix: "reference: the first 2048 by name"."""
    for name, rule, count in (("reference", "selection", "num_reference"),
                              ("samples", "samples_selection", "num_samples")):
        if protocol.get(rule) == "sorted" and protocol.get(count):
            yield f"{name}: the first {protocol[count]} by name"


def split_is_missing(protocol, reference):
    """Whether a protocol wants an official split that nothing has picked the reference by; no where it is unknown."""
    return bool(protocol.get("split") and reference and "split" in reference and not reference["split"])


def format_value(value):
    """Two decimals from 1 up, three significant digits below."""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def text_table(records, names=None):
    """Table of the records for a terminal, with its notes, without a final newline.

    `names` adds a first column, one entry per record.
    """
    header, rows, notes = _cells(records, names)
    return "\n".join([aligned(header, rows, RIGHT_ALIGNED), *(f"{mark} {text}" for mark, text in notes)])


def aligned(header, rows, right=()):
    """Rows of text under a header, columns aligned for a terminal; those named in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    return "\n".join(
        "  ".join(cell.rjust(width) if name in right else cell.ljust(width)
                  for name, cell, width in zip(header, row, widths)).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    )


def markdown_table(records, names=None):
    """The same as markdown, with a final newline; the notes are a paragraph below the table."""
    header, rows, notes = _cells(records, names)
    table = piped(header, rows, RIGHT_ALIGNED)
    if notes:
        table += "\n" + "  \n".join(f"{mark} {text}" for mark, text in notes) + "\n"
    return table


def piped(header, rows, right=()):
    """Rows of text under a header as a markdown table, with a final newline."""
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---:" if name in right else "---" for name in header) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(records, names):
    """Header, rows of text, and notes [(mark, text)]; equal notes share a mark."""
    notes = {}
    rows = []
    for index, record in enumerate(records):
        row = {
            "metric": metric_label(record),
            "value": format_value(record.value) + _interval(record),
            "protocol": protocol_label(record),
            "samples": str(record.num_samples),
            "reference": "-" if record.num_reference is None else str(record.num_reference),
            "seed": str(record.seed),
        }
        marks = {}
        for column, text in remarks(record):
            mark = notes.setdefault(text, f"[{len(notes) + 1}]")
            marks[column] = marks.get(column, " ") + mark
        row = {column: text + marks.get(column, "") for column, text in row.items()}
        rows.append(([names[index]] if names else []) + [row[column] for column in COLUMNS])
    header = ([""] if names else []) + list(COLUMNS)
    return header, rows, [(mark, text) for text, mark in notes.items()]


def _few(names):
    shown = ", ".join(name or "clips without a class" for name in names[:FEW_NAMES])
    return shown + (f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else "")


def _interval(record):
    if record.ci95 is None:
        return ""
    low, high = map(format_value, record.ci95)
    return f" [{low}, {high}]"


def remarks(record):
    """(column, note) of everything a reader must know beside the figure."""
    if record.backbone and record.backbone.get("precision", "fp32") != "fp32":
        yield "metric", f"the network computed in {record.backbone['precision']}; compare only with figures that did"
    if record.backbone and not record.backbone.get("verified", True):
        trust = record.backbone.get("trust", "unverified")
        yield "metric", f"weights not verified ({trust}), SHA-256 {record.backbone['sha256'][:12]}..."
    if record.protocol.get("overrides"):
        yield "protocol", f"{record.protocol['name']} with {', '.join(record.protocol['overrides'])}"
    for warning in record.warnings:
        yield "value", warning
    for column, source in (("samples", record.samples), ("reference", record.reference)):
        wanted = record.protocol.get(f"num_{column}")
        if source and wanted and source["clips"] < wanted:
            yield column, f"the protocol wants {wanted}"
        if source and (classes := source.get("classes")) and classes["lost"]:
            yield column, (f"{classes['taken']} of {classes['of']} classes are in these {column}, drawn from "
                           f"{classes['available']} clips; not {_few(classes['lost'])}")
        if source and source["rejected"]:
            yield column, f"{len(source['rejected'])} of the {column} rejected: {reason_counts(source['rejected'])}"
