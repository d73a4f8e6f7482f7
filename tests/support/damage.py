"""Files with faults put in."""


def each_byte_flipped(content, masks=(1, 8, 255)):
    """Yield `content` with one byte changed, for every byte and every mask of bits."""
    for index in range(len(content)):
        for mask in masks:
            yield content[:index] + bytes([content[index] ^ mask]) + content[index + 1 :]
