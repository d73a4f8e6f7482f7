"""Records of a run → one page of markdown: a table per subject, what failed, what was left out."""

TITLES = {
    "agreement": "Agreement with the processor",
    "roof": "The roof",
    "training": "Training steps",
    "table1": "Table 1 of the paper, size S",
    "gradients": "Gradients against fp32",
    "sampling": "Sampling",
    "backbones": "Feature networks",
}
NOTES = {
    "training": "FLOPs of a sample: forward, twice as much backward, the first pass of self-conditioning; what "
    "checkpointing computes again is not counted. The roof is the large square matrix product in the same "
    "precision; in TF32 where attention alone is in half precision.",
    "gradients": "Cosine with the gradient in fp32 without TF32, same noise, no dropout. Tensors with less than a "
    "millionth of the squared norm are not named the worst.",
    "sampling": "Starting values. A few steps per level are timed and the rest is extrapolated.",
    "backbones": "Random weights.",
}


def page(records: list[dict]) -> str:
    """Markdown; records of a rehearsal are called that."""
    lines = ["# GPU benchmark", ""]
    lines += _origin(records)
    measured = [record for record in records if record["status"] == "measured"]
    subjects = dict.fromkeys(record["subject"] for record in measured)
    for subject in sorted(subjects, key=lambda name: list(TITLES).index(name) if name in TITLES else len(TITLES)):
        lines += ["", f"## {TITLES.get(subject, subject)}", ""]
        lines += [NOTES[subject], ""] if subject in NOTES else []
        own = [record for record in measured if record["subject"] == subject]
        for what in dict.fromkeys(record["what"] for record in own):
            lines += _table(what, [record for record in own if record["what"] == what])
    for status, title in (("failed", "Failed"), ("left out", "Left out")):
        chosen = [record for record in records if record["status"] == status]
        if chosen:
            lines += ["", f"## {title}", ""]
            lines += [
                f"- {' '.join([record['what'], *_pairs(record['settings'])])}: {record['reason']}" for record in chosen
            ]
    return "\n".join(lines) + "\n"


def _origin(records):
    places = {}
    for record in records:
        if record["device"]:
            versions = record["versions"]
            cuda = f", CUDA {versions['cuda']}" if versions.get("cuda") else ""
            memory = f", {record['device']['memory_gib']} GiB" if "memory_gib" in record["device"] else ""
            text = (
                f"{record['device']['name']}{memory}; torch {versions['torch']}{cuda}; commit "
                f"{(record['git'] or 'unknown')[:12]}; seed {record['seed']}; {record['created'][:10]}  \n"
                f"`{record['command']}`"
            )
            places.setdefault(text)
    rehearsed = any("--rehearse" in record["command"].split() for record in records)
    note = ["Rehearsal: tiny sizes; the figures mean nothing.", ""] if rehearsed else []
    return [*note, *places]


def _table(what, records):
    settings = dict.fromkeys(key for record in records for key in record["settings"])
    details = dict.fromkeys(key for record in records for key in record["details"])
    unit = ", ".join(dict.fromkeys(record["unit"] for record in records))
    head = [*settings, unit, *details]
    lines = [
        f"### {what[:1].upper()}{what[1:]}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "|".join([" --- "] * len(settings) + [" ---: "] * (1 + len(details))) + "|",
    ]
    for record in records:
        cells = [_cell(record["settings"].get(key)) for key in settings] + [_cell(record["value"])]
        cells += [_cell(record["details"].get(key)) for key in details]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value).replace("|", "\\|")


def _pairs(settings):
    return [f"{key}={value}" for key, value in settings.items()]
