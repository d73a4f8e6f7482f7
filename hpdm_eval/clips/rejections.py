"""What is said of clips that could not be used: counts by reason, and nothing twice in one command.

The list itself, with a reason for every clip, is in the record.
"""

import re
from collections.abc import Mapping, Sequence

FEW = 3  # rejections that are named one by one
MOST_REASONS = 6
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def rejection_lines(rejected: Sequence[Mapping[str, str]], most: int = MOST_REASONS) -> list[str]:
    """Lines on `rejected` [{"path", "reason"}]: a few one by one, more by reason.

    Reasons that differ in numbers alone are one: "24 rejected: too short: 17 to 31 frames, 64 needed; the first is X".
    """
    if len(rejected) <= FEW:
        return ["rejected {path}: {reason}".format(**entry) for entry in rejected]
    groups = list(_by_reason(rejected).values())
    lines = [
        f"{len(group)} rejected: {_merged([entry['reason'] for entry in group])}; the first is {group[0]['path']}"
        for group in groups[:most]
    ]
    if len(groups) > most:
        rest = groups[most:]
        lines.append(f"{sum(map(len, rest))} rejected for {len(rest)} other reasons, see the record")
    return lines


def reason_counts(rejected: Sequence[Mapping[str, str]], most: int = FEW) -> str:
    """The same without paths, for tables: "22 too short: 17 to 31 frames, 64 needed; 2 cannot be read"."""
    groups = list(_by_reason(rejected).values())
    words = [f"{len(group)} {_merged([entry['reason'] for entry in group])}" for group in groups[:most]]
    if len(groups) > most:
        words.append(f"{sum(map(len, groups[most:]))} for other reasons")
    return "; ".join(words)


def _by_reason(rejected):
    """{reason without numbers and the clip's own name: entries}, the most frequent first."""
    groups = {}
    for entry in rejected:
        key = _NUMBER.sub("0", entry["reason"].replace(entry["path"], ""))
        groups.setdefault(key, []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _merged(reasons):
    """One text for reasons that differ in numbers alone: each number, or its range."""
    columns = list(zip(*(_NUMBER.findall(reason) for reason in reasons)))
    if len({_NUMBER.sub("0", reason) for reason in reasons}) > 1:  # they name the clip
        return reasons[0]
    ranges = iter(
        [
            column[0] if len(set(column)) == 1 else f"{min(column, key=float)} to {max(column, key=float)}"
            for column in columns
        ]
    )
    return _NUMBER.sub(lambda match: next(ranges), reasons[0])
