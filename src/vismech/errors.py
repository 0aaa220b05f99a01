"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(ValueError):
    """Something the user can mend: the message names the value and the remedy, in one sentence."""
