"""What goes wrong with the stack and a person can mend."""


class StackError(Exception):
    """The stack could not be started, stopped or reached; the message says what to do."""
