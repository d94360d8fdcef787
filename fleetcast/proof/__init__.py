"""The proof: cars, phones and faults against a whole platform, and an oracle that forgives nothing.

    oracle    what must be true, from the acknowledgements alone; folds with code of its own
    cars      packets until they are acknowledged            phones    streams, in every mood a phone can be in
    faults    what goes wrong, each with its end             acts      which faults, on which platform, for how long
    roles     the platform's processes with traps at their seams       wire      connections that can be cut and slowed
    power     a machine (guest) and its disk lose their power; the ledger holds what is there against what was acknowledged
    table     what came of it

The platform imports nothing of this. `fleetcast prove` runs it; docs/guarantees.md says what came of it.
"""
