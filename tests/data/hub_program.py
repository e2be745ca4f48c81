"""Reads `hf:` sources through the library `datasets` from a hub on the loopback, and tells."""

import hashlib
import http.server
import json
import os
import pathlib
import sys
import threading

REVISION = "0123456789" * 4


class Hub(http.server.BaseHTTPRequestHandler):
    """What the library asks of a hub, for the data set owner/things: the files of `folder`."""

    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def do_GET(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path = self.path.partition("?")[0]
        files = sorted(self.folder.iterdir())
        entries = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": digest(file)}
            for file in files
        ]
        if "owner/things" not in path:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path:
            self.give(self.folder / path.rpartition("/")[2])
        elif "/tree/" in path:
            self.answer(200, json.dumps(entries).encode())
        elif "/paths-info/" in path:
            found = [entry for entry in entries if entry["path"] in asked]
            self.answer(200, json.dumps(found).encode())
        else:
            about = {"id": "owner/things", "sha": REVISION, "private": False, "tags": []}
            about |= {"downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}
            about["siblings"] = [{"rfilename": file.name} for file in files]
            self.answer(200, json.dumps(about).encode())

    do_HEAD = do_POST = do_GET

    def give(self, file):
        if not file.exists():
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data, headers = file.read_bytes(), {"ETag": f'"{digest(file)}"', "X-Repo-Commit": REVISION}
        if part := self.headers.get("Range"):
            first, last = part.removeprefix("bytes=").split("-")
            end = int(last) + 1 if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            self.answer(206, data[int(first) : end], headers)
        else:
            self.answer(200, data, headers)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers, **{"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def digest(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


def main(place):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_HOME"] = str(place / "home")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        os.environ.pop(name, None)
    import datasets
    from image_files import encode, random_images

    from ecood import data
    from ecood.errors import InputError

    Hub.folder = place / "hub"
    Hub.folder.mkdir()
    images = {"train": random_images(0, 7), "test": random_images(1, 5, (5, 4, 1))}
    features = {"label": datasets.ClassLabel(names=["a", "b", "c"]), "image": datasets.Image()}
    for split, pixels in images.items():
        columns = {"label": [i % 3 for i in range(len(pixels))]}
        columns["image"] = [{"bytes": encode(image), "path": None} for image in pixels]
        rows = datasets.Dataset.from_dict(columns, datasets.Features(features))
        rows.to_parquet(Hub.folder / f"{split}.parquet")

    def tell(what, source, split, expected=None, limit=None):
        try:
            found = data.load_images(source, "any", split, limit=limit)
            print(what, (found == expected).all())
        except InputError as error:
            print(error)

    tell("train", "hf:owner/things", "train", images["train"])
    tell("test", "hf:owner/things", "test", images["test"])
    tell("limit", "hf:owner/things", "test", images["test"][:3], limit=3)
    print("labels", data.load_labels("hf:owner/things", "any", "test").tolist())
    tell("extra", "hf:owner/things", "extra")
    tell("config", "hf:owner/things/small", "test")
    tell("missing", "hf:owner/missing", "test")
    server.shutdown()
    server.server_close()
    tell("kept", "hf:owner/things", "test", images["test"])
    tell("lost", "hf:owner/missing", "test")


main(pathlib.Path(sys.argv[1]))
