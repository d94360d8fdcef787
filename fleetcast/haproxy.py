"""HAProxy's configuration: the front door that phones use, and the inner balancer between the edge and the origins.

One text for both sides, rendered from settings. Why each line must be as it is stands beside it; the figures are in
docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from fleetcast import longpoll, wsevents
from fleetcast.front import BUNDLE
from fleetcast.settings import Settings

_INNER_CONNECTIONS = 500
_OPENING = 64  # new streams at a time that the edge has not answered: its queues hold 100
_BUFFER = 98_304  # bytes that all headers of a message must fit into; one of 400 vehicles has up to 72,000
_PAGE = 500  # streams of one HTTP/2 connection; HAProxy's default is 100
_LATE = 7  # seconds after which a long-poll is not only late but lost: the edge waits up to 5 s too long for short ones
_RESERVE = 400  # HAProxy's own files: listeners, checks, logs, its stats socket
_EDGE = "check inter 1s fall 2 rise 2 on-marked-down shutdown-sessions"
# For streams a connection that is refused is a failed check, and the next one follows at once: an edge that dies and is back
# within two seconds would else never be down, and be given phones before its parts are connected, which swallows what they
# ask. Not for plain requests: those that are being tried again when it is marked down would get no answer at all.
_STREAMS = "fastinter 300ms observe layer4 error-limit 1 on-error fail-check"
# An origin is asked no more at a time than it answers well within a check's time; the rest waits here, where what is given up
# costs it nothing. Else one that is only busy is taken for dead, what it was doing is asked of the others, and so on for ever.
_ORIGIN = "inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions maxconn 32"

# What a phone's EventSource gets instead of an error status, which would make it give up for good. Log-format text.
_UNAVAILABLE = """\
retry: %[rand(3000),add(1000)]

event: unavailable
data: {"reason":"edge"}

"""

# The same for one who follows by WebSocket and said something.
_LATER = b'{"event":"unavailable","retry":2000,"data":{"reason":"origin"}}'

_PROBLEM = '{"type":"about:blank","status":503,"title":"Not available now","detail":"no edge or origin answers; try again"}'

# Pushpin takes a head of `client_buffer_size` (8192) bytes, an address of 4096, and 64 headers; whoever sent more would be told
# to try again, for ever. An event id has 50 characters at most: of a longer one a part is enough to know it as none of ours.
_LONGEST_ID, _LONGEST_URL, _LONGEST_HEAD, _MOST_HEADERS = 256, 4000, 7600, 56


def _too_long(status: int, title: str, detail: str) -> str:
    """An answer, as HAProxy's words."""
    text = f'{{"type":"about:blank","status":{status},"title":"{title}","detail":"{detail}"}}'
    return f"http-request return status {status} content-type application/problem+json string '{text}'"


_LONG_URL = _too_long(414, "URI Too Long", f"an address has at most {_LONGEST_URL} characters")
_LONG_HEAD = _too_long(
    431,
    "Request Header Fields Too Large",
    f"address and headers together have at most {_LONGEST_HEAD} bytes, in at most {_MOST_HEADERS} headers",
)


def connections(settings: Settings) -> int:
    """HAProxy's maxconn: every phone the edges take, the requests between edges and origins, and some that are refused."""
    return settings.edges * (settings.edge_connections + _polls(settings)) + _INNER_CONNECTIONS


def files_needed(settings: Settings) -> int:
    """Open files that HAProxy asks for at its start: two a connection. It does not start with fewer."""
    return 2 * connections(settings) + _RESERVE


def most_connections(settings: Settings, files: int) -> int:
    """A maxconn with room for as many edges again, if there are files for it: it cannot be raised while HAProxy runs."""
    twice = msgspec.structs.replace(settings, edges=2 * settings.edges)
    return min(connections(twice), max(connections(settings), (files - _RESERVE) // 2))


def edge_server(settings: Settings, number: int, backend: str) -> str:
    """A `server` line of edge replica `number`, after its name. All of it: one that is added knows no `default-server`."""
    words = f"{_EDGE} {_STREAMS}" if backend == "streams" else _EDGE
    most = {"streams": settings.edge_connections, "polls": _polls(settings)}.get(backend, _plain(settings))
    return f"127.0.0.1:{settings.edge_port + 10 * number} {words} maxconn {most}"


def origin_server(address: str, admin: int) -> str:
    """The same of an origin."""
    return f"{address} check port {admin} {_ORIGIN}"


def _polls(settings: Settings) -> int:
    return max(10, settings.edge_connections // 4)


def _plain(settings: Settings) -> int:
    return max(10, settings.edge_connections // 10)


def configuration(
    settings: Settings,
    origins: Sequence[tuple[str, int]] | Mapping[int, tuple[str, int]],
    folder: Path,
    edges: Sequence[int] | None = None,
    most: int = 0,
) -> Mapping[str, str]:
    """File name -> text, under `folder`. `origins`: each one's host:port and its admin port, on the same host.

    `edges` are the replicas' numbers, those of the settings if not given; `most` the connections in all, the same.
    """
    hold = 3 * settings.keep_alive
    plain = _plain(settings)
    # The health check ends inside Pushpin (its route alive.invalid): were it to reach an origin, an origin outage would
    # mark every edge down and cut all streams. A hung Pushpin is out within 4.5 s, its streams cut so that phones move.
    check = (
        """\
    option httpchk
    http-check send meth GET uri / ver HTTP/1.1 hdr Host alive.invalid
    http-check expect status 200
    default-server """
        + _EDGE
    )
    word = f"content-type text/event-stream lf-file {folder}/unavailable"
    unavailable = "\n".join(f"    http-error status {status} {word}" for status in (502, 503, 504))
    problem = f"content-type application/problem+json file {folder}/problem hdr Retry-After 1"
    problems = "\n".join(f"    http-error status {status} {problem}" for status in (502, 503, 504))
    said_later = f"content-type {wsevents.MEDIA_TYPE} file {folder}/later"
    later = "\n".join(f"    http-error status {status} {said_later}" for status in (502, 503, 504))
    servers = "\n".join(
        f"    server edge{number} 127.0.0.1:{settings.edge_port + 10 * number}"
        for number in (range(settings.edges) if edges is None else edges)
    )
    numbered = origins if isinstance(origins, Mapping) else dict(enumerate(origins))
    origin_servers = "\n".join(
        f"    server origin{number} {address} check port {admin}"
        for number, (address, admin) in numbered.items()
    )
    # A page that follows many vehicles opens a stream for each: over HTTP/1.1 a browser opens six, over HTTP/2 as many as it is
    # allowed here, and those beyond that hang without an error.
    tls = f" ssl crt {folder}/{BUNDLE} alpn h2,http/1.1 ssl-min-ver TLSv1.2" if settings.front_cert else ""
    text = f"""\
global
    log stdout format raw local0 notice
    maxconn {most or connections(settings)}
    stats socket {folder}/admin.sock mode 600 level admin
    setenv FLEETCAST_PACE {settings.new_streams}
    setenv FLEETCAST_OPENING {_OPENING}
    lua-load {folder}/pace.lua
    hard-stop-after 5s
    # A stream of 400 vehicles is 400 headers of up to 180 bytes between edge and origin.
    tune.http.maxhdr 600
    # Connections to origins are kept for the next request however many streams there are. By default none is kept when a
    # quarter of its files is in use.
    tune.pool-low-fd-ratio 95
    tune.pool-high-fd-ratio 98
    tune.bufsize {_BUFFER}
    tune.h2.max-concurrent-streams {_PAGE}

defaults
    mode http
    log global
    option dontlognull
    # Without no-delay each small event waits 200 ms for Nagle's algorithm.
    option http-no-delay
    # Without abortonclose the streams of phones that went away live on: phantom listeners.
    option abortonclose
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    timeout connect 2s
    timeout http-request 5s
    timeout queue 10s
    timeout check 1s
    timeout client {hold}s
    timeout server {hold}s
    timeout tunnel {hold}s
    timeout client-fin 5s
    timeout http-keep-alive 60s

frontend front
    bind {settings.host}:{settings.front_port}{tls}
    # Ours alone to set: the edge strips them as well.
    http-request del-header grip- -m beg
    # What Pushpin would not take is refused for good; but an id that is none of ours is reset, whatever its length.
    acl long_id req.fhdr(last-event-id),length gt {_LONGEST_ID}
    http-request set-header Last-Event-ID %[req.fhdr(last-event-id),bytes(0,{_LONGEST_ID})] if long_id
    {_LONG_URL} if {{ url,length gt {_LONGEST_URL} }}
    http-request set-var(txn.url) url,length
    {_LONG_HEAD} if {{ req.hdrs,length,add(txn.url) gt {_LONGEST_HEAD} }}
    {_LONG_HEAD} if {{ req.fhdr_cnt gt {_MOST_HEADERS} }}
    # EventSource sets no headers, so a ticket stands in the query. From here on it is a header: logs hold queries.
    acl ticket urlp(ticket) -m found
    http-request set-header Authorization "Ticket %[urlp(ticket)]" if ticket
    http-request set-query "%[query,regsub('(^|&)ticket=[^&]*','',g),regsub('^&','')]" if ticket
    acl events path_end /events
    acl events path_beg /v1/streams/
    acl poll url_param(wait) -m found
    http-request set-var(txn.poll) bool(true) if events poll
    # When it was asked, for `inner` to say how long ago: the edge asks the same again in the midst of its wait.
    http-request del-header poll- -m beg
    http-request set-header Poll-Began %[date(0,ms)] if events poll
    # A WebSocket is a stream from its edge's 101 on. Only of one the edge says to an origin that it is one, so nobody else may.
    http-request set-var(txn.socket) bool(true) if {{ path_end /ws }} {{ method GET }} {{ hdr(upgrade) -i websocket }}
    acl socket var(txn.socket) -m found
    http-request del-header meta- -m beg
    http-request del-header sec-websocket-extensions if !socket
    http-request lua.pace if events || socket
    # Who waited for long is told to come back, a browser's EventSource in a way that it understands.
    acl late var(txn.late) -m found
    acl sse hdr_sub(accept) text/event-stream
    http-request return status 200 {word} hdr Cache-Control no-store if late sse !poll !socket
    http-request return status 503 {problem} if late
    http-request reject if events !{{ var(txn.paced) -m found }}
    http-request reject if socket !{{ var(txn.paced) -m found }}
    use_backend streams if socket
    use_backend polls if events poll
    use_backend streams if events sse
    default_backend plain

backend streams
    balance leastconn
    # Not after an empty response, as elsewhere: for that HAProxy would keep the request in a buffer as long as the stream is
    # open. The phone is told to come back.
    retry-on conn-failure
{check} {_STREAMS} maxconn {settings.edge_connections}
    # A browser's EventSource gives up for good on any status but 200: a temporary failure is told in band. A WebSocket is none,
    # whatever the status; it stays a 503.
{unavailable}
    acl socket var(txn.socket) -m found
    http-after-response set-var(txn.opened) lua.opened
    http-response return status 200 {word} if {{ status 502 503 504 }} !socket
    http-after-response set-status 200 if {{ status 502 503 504 }} !socket
    http-after-response set-status 503 if {{ status 502 504 }} socket
    http-after-response set-header Cache-Control no-store
{servers}

# Long-polls: answered like plain requests, but held like streams, so that a pool of their own keeps them from filling the other
# two. One whose edge dies, or is late, is asked of another one, and its app notices nothing: its time is over by then, so the
# answer comes at once. Pushpin now and then loses a poll that it asks the origin for again.
backend polls
    balance leastconn
    retry-on conn-failure empty-response response-timeout
    http-request set-timeout server url_param(wait),add({_LATE}),mul(1000) if {{ url_param(wait) -m reg ^[1-9][0-9]?$ }}
{check} maxconn {_polls(settings)}
{problems}
    http-response return status 503 {problem} if {{ status 502 504 }}
    http-after-response set-status 503 if {{ status 502 504 }}
{servers}

backend plain
    balance leastconn
{check} maxconn {plain}
{problems}
    http-response return status 503 {problem} if {{ status 502 504 }}
    http-after-response set-status 503 if {{ status 502 504 }}
{servers}

# Pushpin's own list of targets only fails over; this balances, and takes an origin that is replaced out in time.
frontend inner
    bind 127.0.0.1:{settings.inner_port}
    acl poll req.hdr(poll-began) -m found
    http-request set-var(txn.began) req.hdr(poll-began),add(0) if poll
    http-request set-header {longpoll.WAITED} %[date(0,ms),sub(txn.began)] if poll
    use_backend sockets if {{ hdr(meta-socket) -m found }}
    default_backend origins

backend origins
    balance leastconn
    # Streams that are open come before those that are not yet.
    http-request set-priority-class int(1) if !{{ path_beg /next/ }}
    http-reuse always
    timeout server 15s
    retry-on conn-failure empty-response
    # Whether it runs, not whether the database answers: an origin says that itself, and better.
    option httpchk GET /live
    timeout check 2s
    # A request that waits for an origin that hangs is tried at another as soon as the check knows.
    default-server {_ORIGIN}
{problems}
{origin_servers}

# What is said on WebSockets that are open. Were it answered by an error, the edge would cut the socket: with all origins away
# for half a minute, every one.
backend sockets
    balance leastconn
    http-reuse always
    timeout server 15s
    retry-on conn-failure empty-response
    option httpchk GET /live
    timeout check 2s
    default-server {_ORIGIN}
{later}
    http-after-response set-status 200 if {{ status 502 503 504 }}
    http-after-response set-header Sec-WebSocket-Extensions grip
{origin_servers}

frontend haproxy
    bind 127.0.0.1:{settings.haproxy_port}
    monitor-uri /live
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 404
"""
    pace = resources.files("fleetcast").joinpath("pace.lua").read_text()
    later = wsevents.encode([wsevents.message(_LATER)]).decode()
    return {
        "haproxy.cfg": text,
        "unavailable": _UNAVAILABLE,
        "later": later,
        "problem": _PROBLEM,
        "pace.lua": pace,
    }
