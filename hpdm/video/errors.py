"""What reading a file may raise; here, so that who only handles it needs no decoder."""


class DecodingError(Exception):
    """A video that cannot be read, or ends before a wanted frame; the message says why."""


class UnreadablePicture(Exception):
    """A picture that cannot be read; the message says why."""
