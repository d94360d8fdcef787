"""A fleet that is not there: cars that post packets as real ones would, to try the platform at its stated load.

`drives` reads real speed traces, `car` turns one into the signals of a whole car (pure, seeded), `samples` fills a
packet with data that compresses like that of real sensors, and `cars` posts the packets, each until it is
acknowledged. The platform imports nothing from here.
"""
