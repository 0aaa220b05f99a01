"""The one exception that is shown to a user as a sentence instead of a traceback, one that becomes it, and one that is
no error."""


class UserError(ValueError):
    """Something the user can mend: the message names the value and the remedy, in one sentence."""


class NotFinite(FloatingPointError):
    """A value or derivative is NaN or infinite: what is ``said`` of the image at this place of the batch, if of one."""

    def __init__(self, said: str, image: int | None = None) -> None:
        super().__init__(said if image is None else f"image {image}: {said}")
        self.said, self.image = said, image


class Unfinished(Exception):
    """A run has done what it can for a pass that others are filling too: nothing is to be committed yet."""
