"""Finding records in folders."""

from dataclasses import dataclass
from pathlib import Path

from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.support.progress import note
from hpdm_eval.records.record import Record, load_record


@dataclass(frozen=True, kw_only=True)
class Found:
    """A record and the name of its file below the folder that was searched."""

    name: str
    record: Record

    def get(self, key):
        """A value of the record by name, of the schema or of its further keys; None where it has none."""
        return getattr(self.record, key) if hasattr(self.record, key) else self.record.extra.get(key)


def collect_records(folders):
    """All records below the folders, as `Found`, sorted by name; a file that lies in two of them counts once.

    Other JSON files are passed over, those that cannot be read with a note. With several folders names begin with that
    of the folder. Raises InputError for a missing folder, a record that cannot be read, and where there is none.
    """
    folders = [Path(folder) for folder in folders]
    seen, found = set(), []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--records {folder}: there is no such folder")
        for path in sorted(folder.rglob("*.json")):
            real = path.resolve()
            if real in seen or not _is_record(path):
                continue
            seen.add(real)
            name = path.relative_to(folder).as_posix()
            record = load_record(path)
            found.append(Found(name=f"{folder.resolve().name}/{name}" if len(folders) > 1 else name, record=record))
    if not found:
        raise InputError(f"no record in {', '.join(map(str, folders))}; metric commands save them with --record DIR")
    return sorted(found, key=lambda item: item.name)


def _is_record(path):
    """Whether a JSON file means to be a record: others in the same folders are manifests and results of benchmarks."""
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        note(f"left out: {path}: not readable JSON ({str(error)[:160]})")
        return False
    return isinstance(values, dict) and {"schema", "metric", "value"} <= set(values)
