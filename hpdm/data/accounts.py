"""What of the data is used and what is left out, in words for people; nothing here imports a decoder."""

from collections.abc import Mapping

from hpdm.config.data import PROCEDURAL

# How reasons for leaving out a video begin.
TOO_SHORT, BROKEN = "too short", "broken"
HINT_LOOP = "data.short=loop repeats {}"
SHOWN = 3  # files named in a line


def counted(counts: Mapping[str, int]) -> str:
    """ "3 .txt, 1 .json" of a dictionary: most frequent first, then by name; zeros are left out."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered if count)


def with_hints(counts: Mapping[str, int]) -> str:
    """As `counted`, saying how videos that are too short can be used."""
    hint = f" ({HINT_LOOP.format('them')})"
    return counted({f"{name}{hint if name.startswith(TOO_SHORT) else ''}": count for name, count in counts.items()})


def summary(about: dict) -> list[str]:
    """Lines for people of what `TrainingClips.describe` says."""
    if about["path"] == PROCEDURAL:
        return []
    used, broken = about["videos"] + about.get("images", 0), about["broken"]
    parts = [f"{used} of {about['videos_found']} used", with_hints(about["dropped"])]
    parts.append(f"{len(broken)} broken" if broken else "")
    parts += [
        f"class {name} has no video left"
        for name, entry in about.get("per_class", {}).items()
        if name and not entry["used"]
    ]
    lines = [f"data: {', '.join(filter(None, parts))}"]
    lines += [f"data: broken: {file['path']}: {file['reason']}" for file in broken[:SHOWN]]
    if len(broken) > SHOWN:
        lines.append(f"data: broken: {len(broken) - SHOWN} more")
    if "part" in about:
        lines.append(
            f"data: part {about['part']} of the folders that hold {counted(about['parts'])} videos; classes "
            "are the folders below (data.part chooses another, data.layout=folders takes parts for classes)"
        )
    if about.get("not_listed"):
        lines.append(
            f"data: {about['listed_present']} of the {about['listed']} videos of the list ({about['split']}) "
            f"are there; passed over: {about['not_listed']} that it does not name"
        )
    if (index := about.get("index")) and index.get("made"):
        lines.append(
            f"data: as indexed on {index['made']}; hpdm-data index --data {about['path']} takes in what has "
            "changed since"
        )
    if about.get("passed_over"):
        lines.append(f"data: passed over: {counted(about['passed_over'])}")
    return lines
