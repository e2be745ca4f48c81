"""A server of files on the loopback, which answers as well or as badly as a test asks."""

import contextlib
import http.server
import threading


class Server:
    """Gives the files of a folder, each in the `ways` listed for its name, the last for ever.

    A way is a status, or one of: right; wrong, a byte is another one; short, half a file is the
    whole; no ranges; no length; cut, closed in the middle; stalls, says nothing from the middle
    on; gone, the server ends in the middle; nothing, closed before an answer; mute, no answer.
    """

    def __init__(self, folder):
        self.folder, self.ways, self.asked, self.head = folder, {}, [], 200
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"of": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.handle_error = lambda *_: None  # a client that hangs up is no error
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def starts_of(self, name):
        """Where each download of a file began."""
        return [start for asked, start in self.asked if asked == name]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(self.of.head)
        self.end_headers()

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.of.asked.append((name, start))
        ways = self.of.ways.get(name, ["right"])
        way = ways.pop(0) if len(ways) > 1 else ways[0]
        if way == "mute":
            self.of.over.wait(5)
        elif isinstance(way, int):
            self.send_response(way)
            if way == 302:
                self.of.ways[name] = ["right"]
                self.send_header("Location", f"{self.of.address}/elsewhere/{name}")
            self.end_headers()
        elif way != "nothing":
            self.give(way, (self.of.folder / name).read_bytes(), start)

    def give(self, way, data, start):
        if way == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif way == "short":
            data = data[: len(data) // 2]
        start = 0 if way == "no ranges" else start
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if way != "no length":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        data = data[start:]
        if way in ("cut", "stalls", "gone"):
            data = data[: len(data) // 2]
        self.wfile.write(data)
        self.wfile.flush()
        if way == "stalls":
            self.of.over.wait(5)
        elif way == "gone":
            self.of.http.shutdown()
            self.of.http.server_close()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """A server of a folder, while it runs."""
    server = Server(folder)
    server.http.block_on_close = False
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
