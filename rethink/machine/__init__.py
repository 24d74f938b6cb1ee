"""This machine: cores, memory, measured rates, and the defaults that follow from them.

Nothing is assumed from a processor's name (`store.environment` reads that): the compute type follows from a
measurement, the thread count from what this process is allowed to use, the memory from the limits it runs under
(control groups included).
"""
