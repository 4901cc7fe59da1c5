"""The two ways a stage of a release ends early, beside success and plain faults (which are retried)."""


class Rejected(Exception):
    """A gate said no: final, never retried. The message is the reason a reviewer reads."""


class Misconfigured(Exception):
    """Something a person must change (a spec, a parameter, a missing file): never retried; says what to do."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
