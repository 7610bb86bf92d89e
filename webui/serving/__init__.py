"""The HTTP server: connections on an event loop, requests in threads.

A connection takes a thread only when its whole request has arrived. Everything that a stranger can do slowly waits on
the event loop and has a deadline: TLS handshakes, heads, bodies, and reading answers. h11 parses HTTP, OpenSSL does
TLS, gunicorn starts and watches the workers. docs/decisions/0006 says why.

    limits       what one connection, one address and one process may use
    wire         bytes of a connection: plain, or through TLS
    heads        a request's head, parsed strictly
    environ      a head and a body as a WSGI environ
    crowd        the connections of this process, and which are closed when there are too many
    inbox        what a client has sent: a head, then its body
    pace         whether a client sends and reads its share in each window
    connection   the states of one connection and its deadlines
    refusals     answers that the server gives by itself
    pool         the threads, shared fairly between addresses
    answer       one request in its thread
    delivery     hands an answer from that thread to the event loop
    shared       what all connections of a server share
    server       all of this on a listener, until it is told to stop
    worker       the same as a gunicorn worker
"""
