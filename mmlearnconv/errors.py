"""What a user can mend: errors that a command line ends with as one sentence.

Everything else is a fault of a program and shows its traceback.
"""

__all__ = ["UserError", "UserImportError", "UserTypeError", "UserValueError"]


class UserError(Exception):
    """Something that a user can mend; the message names what, its value, and what to do."""


class UserValueError(UserError, ValueError):
    """A value outside what is allowed."""


class UserTypeError(UserError, TypeError):
    """A value of the wrong type."""


class UserImportError(UserError, ImportError):
    """A package that has to be installed for this."""
