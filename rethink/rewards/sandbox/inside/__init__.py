"""What runs inside the sandbox: the standard library only, since nothing else is there."""
