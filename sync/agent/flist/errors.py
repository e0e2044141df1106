"""What is wrong with a flist."""


class FlistError(ValueError):
    """Bytes that are no flist, or one that would cost more than the limits allow."""


class NoMessageError(FlistError):
    """An entry of a flist that is no capnp message: no program reads anything from it."""


class NeedsMoreError(FlistError):
    """A flist needs more than it was given for being read.

    scratch_bytes: what its database takes on the disk; 0 where it is memory that it needs.
    """

    def __init__(self, scratch_bytes: int = 0) -> None:
        super().__init__("needs more than it was given")
        self.scratch_bytes = scratch_bytes
