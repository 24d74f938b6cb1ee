"""One recipe on many processes and machines: rollout workers, their protocol, and Ray, which places them."""
