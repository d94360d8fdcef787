"""`fleetcast conform`: the contract of docs/protocol.md ("An app reads"), tried from outside against any deployment.

    words.py      what a check comes to: passed, Failed, NotTried
    events.py     Server-Sent Events, read
    shapes.py     what an answer, a snapshot, an update, a reset must look like
    story.py      whether a stream's events follow each other, and what they add up to
    target.py     what every check is given: the deployment, asked and followed as an app does
    sender.py     a vehicle of its own, through the ingest door
    recording.py  one stream from its beginning: what checks of streams look at, and what they come back to
    state.py status.py fleet.py stream.py resume.py reset.py views.py polls.py calm.py many.py websocket.py tokens.py crowd.py
    errors.py     the checks, a group each
    suite.py      the groups in order, run; the table

It judges with code of its own, from the protocol's text: it imports nothing of what makes the answers (import-linter sees to
that). A group is a module with CHECKS, functions that take a `Target` and return what was seen; the first line of
a check's docstring is the promise that it tries. To add a group, name it in `suite.GROUPS`.
"""
