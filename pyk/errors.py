"""The errors whose text is written for the person at the terminal."""


class UserError(Exception):
    """Its text is one line that says what is wrong, where, and what to do; commands print it and exit with 1."""
