"""A file inside a shard: where its bytes are, and how a process gets them. Nothing here imports a decoder."""

from dataclasses import dataclass, replace

from hpdm.data.addresses import is_address, read_range
from hpdm.video.errors import DecodingError


@dataclass(frozen=True, kw_only=True)
class Member:
    """Bytes `offset` to `offset + size` of a shard.

    name: what the file is called; its suffix says what it is. shard: a path, or an address for fsspec. content: the
    bytes, where a process that can reach the address has fetched them for one that perhaps cannot.
    """

    name: str
    shard: str
    offset: int
    size: int
    content: bytes | None = None

    @property
    def remote(self) -> bool:
        return is_address(self.shard)

    def fetched(self) -> "Member":
        """The member with its bytes, if it lies behind an address; a path is opened by whoever decodes it.

        Raises InputError where the address cannot be read.
        """
        if not self.remote or self.content is not None:
            return self
        return replace(self, content=read_range(self.shard, self.offset, self.size))

    def load(self) -> bytes:
        """The bytes. Raises DecodingError for a shard that is gone or ends before them."""
        if self.content is not None:
            content = self.content
        else:
            try:
                with open(self.shard, "rb") as file:
                    file.seek(self.offset)
                    content = file.read(self.size)
            except OSError as error:
                raise DecodingError(f"its shard cannot be read ({error.strerror})") from error
        if len(content) != self.size:
            raise DecodingError(f"its shard ends {self.size - len(content)} bytes before it does")
        return content
