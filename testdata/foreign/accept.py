"""A server that does not know of drover, nor how to say that it is ready: a plain
blocking accept on descriptor 3, a thread for each connection, TERM to finish."""
import os
import signal
import socket
import threading
import time

assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
assert os.environ["LISTEN_FDS"] == "1"
listener = socket.socket(fileno=3)


def answer(conn):
    with conn:
        request = b""
        while b"\r\n\r\n" not in request:
            got = conn.recv(4096)
            if not got:
                return
            request += got
        if request.startswith(b"GET /slow"):
            time.sleep(0.2)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


signal.signal(signal.SIGTERM, lambda *_: listener.close())
threads = []
while True:
    try:
        conn, _ = listener.accept()
    except OSError:  # it was closed
        if listener.fileno() < 0:
            break
        raise
    threads = [t for t in threads if t.is_alive()]
    threads.append(threading.Thread(target=answer, args=(conn,)))
    threads[-1].start()
for t in threads:
    t.join()
