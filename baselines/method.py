"""What the methods with settings of their own derive from."""

from typing import Generic, TypeVar

from hpdm.hierarchical import Hierarchical
from hpdm.methods import MethodConfig

Settings = TypeVar("Settings", bound=MethodConfig)


class MethodWithSettings(Hierarchical, Generic[Settings]):
    """A method whose section `method` of a configuration is of the dataclass `settings`."""

    settings: type[Settings]

    @property
    def own_settings(self) -> Settings:
        """The section `method` of the configuration."""
        found = self.config.method
        assert isinstance(found, self.settings)
        return found
