"""The reward of programs: 1 where every test passes, run in a sandbox."""
