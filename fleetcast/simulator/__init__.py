"""A fleet that is not there: cars that send packets as real ones would, to try the platform at its stated load.

`drives` reads real speed traces, `car` turns one into the signals of a whole car (pure, seeded), `samples` fills a packet
with data that compresses like that of real sensors, `trouble` says what goes wrong on the way (pure, seeded), and `sender`
sends the packets, each until it is acknowledged, through a `door`: `http_door` or `mqtt_door`. `cars` is the fleet,
`phones` watch it, and `verdict` judges. The platform imports nothing from here.
"""
