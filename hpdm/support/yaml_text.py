"""Reading YAML that people write: configurations, protocols, prompts, values of `--set`.

YAML has more than such files need, and some of it breaks what reads it: dates, references that grow a line into
gigabytes, nesting without end, keys that are lists. Here everything is a mapping, a list, a text, a number, true, false
or null, and whatever is wrong is one message.
"""

from typing import Any

import yaml

from hpdm.support.errors import InputError

DEEPEST = 50
MOST_BYTES = 16 << 20
MOST_NODES = 1_000_000  # after references are followed
MOST_DIGITS = 100  # of a whole number


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, what looks like one stays text, and without deep nesting.

    The time that PyYAML takes grows with the square of the depth.
    """

    def fetch_flow_collection_start(self, token):
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(token)

    def add_indent(self, column):
        self._check_depth(len(self.indents))
        return super().add_indent(column)

    def _check_depth(self, depth):
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; raises InputError that names `where` for all that cannot be used."""
    if len(text) > MOST_BYTES:
        raise InputError(f"{where} is too long for YAML: {len(text):,} characters, at most {MOST_BYTES:,} are read")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise InputError(f"{where} is not usable YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not valid YAML: {_line(error)}") from error


def _check(root, where):
    """Raise InputError where a document is too deep or too large, references counted as often as they are used."""
    sizes, open_nodes = {}, set()

    def size(node, depth):
        if depth > DEEPEST:
            raise InputError(f"{where} is not usable YAML: nested more than {DEEPEST} deep")
        if id(node) in open_nodes:
            raise InputError(f"{where} is not usable YAML: it refers to itself")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            below = ()
            if isinstance(node, yaml.MappingNode):
                below = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                below = node.value
            elif node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
                raise InputError(f"{where} has a whole number of {len(node.value)} digits")
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in below)
            open_nodes.discard(id(node))
        if sizes[id(node)] > MOST_NODES:
            raise InputError(f"{where} is not usable YAML: its references make more than {MOST_NODES:,} values")
        return sizes[id(node)]

    size(root, 0)


def _line(error):
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
