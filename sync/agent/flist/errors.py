"""What is wrong with a flist."""


class FlistError(ValueError):
    """Bytes that are no flist, or one that would cost more than the limits allow."""


class NoMessageError(FlistError):
    """An entry of a flist that is no capnp message: no program reads anything from it."""
