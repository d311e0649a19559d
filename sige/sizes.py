"""Size: height and width, in this order, as arrays and flags have them."""

__all__ = ["Size", "size_text"]

Size = tuple[int, int]  # height, width


def size_text(size: Size) -> str:
    """The size as flags write it.

    >>> size_text((512, 1024))
    '512x1024'
    """
    return f"{size[0]}x{size[1]}"
