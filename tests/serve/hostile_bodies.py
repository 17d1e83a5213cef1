"""Requests that cost more to read than a picture to label, if they are read carelessly.

For the test that measures the event loop's pauses, and for benchmarks: they are whole requests of up to 32 MB, without
a connection.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
_PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'


class Hostile(NamedTuple):
    """One request."""

    name: str
    method: str
    url: str
    """Path and query."""
    headers: dict[str, str]
    body: bytes


def hostile_requests(
    *, num_bytes: int = 31 * 2**20, image: bytes = b"no image", model: str = "small", crop_size: int = 64
) -> Iterator[Hostile]:
    """All of them, one after the other.

    Args:
        num_bytes: of a large body.
        image: a small picture that is labelled, for requests whose answers are large.
        model: its name.
        crop_size: of its input, pixels.
    """
    infer = f"/v2/models/{model}/infer"
    for name, text in _texts(num_bytes):
        yield Hostile(f"classify: {name}", "POST", "/v1/classify", JSON, b'{"images":[{"base64":"%b"}]}' % text)
        yield Hostile(f"paddlex: {name}", "POST", "/image-classification", JSON, b'{"image":"%b"}' % text)
        tensor = b'{"name":"image","shape":[1],"datatype":"BYTES","data":["%b"]}' % text
        yield Hostile(f"kserve: {name}", "POST", infer, JSON, b'{"inputs":[%b]}' % tensor)
    for name, body in _objects(num_bytes):
        for url in ("/v1/classify", "/image-classification", infer):
            yield Hostile(f"{url}: {name}", "POST", url, JSON, body)
    for name, body in _tensors(crop_size):
        yield Hostile(f"kserve: {name}", "POST", infer, JSON, body)
    yield from _binary(num_bytes, infer, crop_size)
    for name, body in _forms(num_bytes):
        yield Hostile(f"form: {name}", "POST", "/v1/classify", FORM, body)
    yield from _packed(num_bytes, image)
    yield from _heads(image)
    yield from _large_answers(image, infer)


def _fill(part: bytes, num_bytes: int) -> bytes:
    return part * (num_bytes // len(part))


def _texts(size: int) -> Iterator[tuple[str, bytes]]:
    """What stands where base64 should."""
    yield "base64", _fill(b"QUJD", size)
    yield "base64 with one letter that is none", _fill(b"A", size) + "é".encode()
    yield "base64 with one emoji", _fill(b"A", size) + "😀".encode()
    yield "emoji", _fill("😀".encode(), size)
    yield "letters that are not ASCII", _fill("é".encode(), size)
    yield "line breaks", _fill(b"A" * 76 + b"\\n", size)
    yield "nothing but line breaks", _fill(b"\\n", size)
    yield "escaped slashes", _fill(b"A" * 63 + b"\\/", size)
    yield "escaped letters", _fill(b"\\u0041", size)
    yield "escaped emoji", _fill(b"\\ud83d\\ude00", size)
    yield "escaped quotation marks", _fill(b'\\"', size)
    yield "backslashes", _fill(b"\\\\", size)
    yield "blanks", _fill(b" ", size)
    yield "blanks between", _fill(b"A ", size)
    yield "padding", _fill(b"=", size)
    yield "one letter too many", _fill(b"QUJD", size) + b"A"
    yield "bytes that are no text", _fill(b"A", size) + b"\xff"
    yield "a data address", b"data:image/png;" + _fill(b"a=b;", size) + b"base64,QUJD"
    yield "an address", b"http://images.example/" + _fill(b"a", size)


def _objects(size: int) -> Iterator[tuple[str, bytes]]:
    yield "an end that is missing", b'{"images":[{"base64":"' + _fill(b"A", size)
    yield "white space", b'{"images":[]' + _fill(b" ", size) + b"}"
    yield "an integer", b'{"top_k":' + _fill(b"1", size) + b"}"
    yield "a fraction", b'{"top_k":0.' + _fill(b"1", size) + b"}"
    yield "a key", b'{"' + _fill(b"a", size) + b'":1}'
    yield "keys", b"{" + b",".join(b'"%d":0' % i for i in range(9_990)) + b"}"
    yield "millions of keys", b"{" + _fill(b'"a":0,', size) + b'"a":0}'
    yield "keys of an image", b'{"images":[{' + b",".join(b'"%d":0' % i for i in range(9_990)) + b"}]}"
    yield "empty images", b'{"images":[' + b"{}," * 9_000 + b"{}]}"
    yield "millions of images", b'{"images":[' + _fill(b'{"base64":"A"},', size) + b"{}]}"
    yield "lists in lists", b'{"images":' + b"[" * 19_000 + b"]" * 19_000 + b"}"
    yield "millions of lists in lists", _fill(b"[", size)
    yield "texts of four kilobytes", b'{"images":[' + _fill(b'"%b",' % (b"\\n" * 2_000), size) + b'""]}'
    yield "strings that begin", _fill(b'"', size)
    yield (
        "images of half a megabyte",
        json.dumps({"images": [{"base64": "A" * (size // 64), "name": "é" * 200}] * 64}).encode(),
    )
    yield "images of four kilobytes", json.dumps({"images": [{"base64": "é" * 800}] * 64}).encode()
    yield "more images than are allowed", json.dumps({"images": [{"base64": "A" * (size // 1000)}] * 900}).encode()


def _tensors(crop: int) -> Iterator[tuple[str, bytes]]:
    count = 64 * crop * crop * 3
    shape = json.dumps([64, crop, crop, 3]).encode()

    def pixels(data: bytes, shape: bytes = shape) -> bytes:
        return b'{"inputs":[{"name":"pixels","shape":%b,"datatype":"UINT8","data":%b}]}' % (shape, data)

    def nested(*sizes: int) -> bytes:
        data = b"255"
        for size in reversed(sizes):
            data = b"[" + b",".join([data] * size) + b"]"
        return data

    limit = min(count, 999_000)
    yield "pixels", pixels(b"[" + b"0," * (limit - 1) + b"0]")
    yield "pixels in lists", pixels(nested(64, crop, crop, 3) if count < 999_000 else nested(6, crop, crop, 3))
    yield "pixels in lists of another shape", pixels(nested(count // 3 if count < 999_000 else 333_000, 3))
    yield "pixels apart", pixels(b"[" + b"0 , " * (limit - 1) + b"0]")
    yield "fractions", pixels(b"[" + b"0.123456789012," * (limit - 1) + b"0]")
    yield "large integers", pixels(b"[" + b"12345678901234567890123," * (limit - 1) + b"0]")
    yield "negative numbers", pixels(b"[" + b"-1," * (limit - 1) + b"0]")
    yield "lists without numbers", pixels(b"[" + b"[]," * 490_000 + b"0]")
    yield "lists that do not end", pixels(b"[" * 990_000)
    yield "objects without keys", pixels(b"[" + b"{}," * 490_000 + b"0]")
    yield "keys", pixels(b"[{" + b",".join(b'"%d":1' % i for i in range(990_000)) + b"}]")
    far = 31 * 2**20
    yield "blanks between two numbers", pixels(b"[1," + b" " * far + b"2]")
    yield "blanks behind the numbers", pixels(b"[1,2]" + b" " * far)
    yield "one number of zeros", pixels(b"[" + b"0" * far + b"]")
    yield "millions of lists", pixels(b"[" * far + b"]")
    yield "lists between two numbers", pixels(b"[" + b"7," * (limit - 1) + b"[" * (far - 2 * limit) + b"7]")
    yield "lists around every number", pixels(b"[" + (b"[" * 14 + b"7" + b"]" * 14 + b",") * (far // 30) + b"7]")
    yield "more numbers than are read", pixels(b"[" + b"0," * 5_000_000 + b"0]")
    yield "another shape", pixels(b"[" + b"0," * 900_000 + b"0]", b"[2147483647,2147483647,2147483647,3]")
    for name, string in [("empty strings", b'""'), ("strings", b'"QUJD"'), ("strings that are none", '"é"'.encode())]:
        data = b"[" + (string + b",") * 990_000 + string + b"]"
        yield name, b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":%b}]}' % data
        yield (
            f"{name} in a shape as large",
            (b'{"inputs":[{"name":"image","shape":[990001],"datatype":"BYTES","data":%b}]}' % data),
        )


def _binary(size: int, infer: str, crop: int) -> Iterator[Hostile]:
    def request(name: str, tensor: Mapping[str, object], binary: bytes) -> Hostile:
        whole = {**tensor, "parameters": {"binary_data_size": len(binary)}}
        header = json.dumps({"inputs": [whole]}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
        return Hostile(f"kserve binary: {name}", "POST", infer, headers, header + binary)

    encoded = {"name": "image", "shape": [64], "datatype": "BYTES"}
    yield request("empty strings", encoded, bytes(size))
    yield request("one string", encoded, struct.pack("<I", size) + bytes(size))
    yield request("strings", encoded, (struct.pack("<I", size // 64) + bytes(size // 64)) * 64)
    pixels = {"name": "pixels", "shape": [64, crop, crop, 3], "datatype": "UINT8"}
    yield request("pixels", pixels, bytes(64 * crop * crop * 3))
    yield request("more pixels", pixels, bytes(size))


def _forms(size: int) -> Iterator[tuple[str, bytes]]:
    end = b"\r\n--x--\r\n"
    yield "one file", _PART + bytes(size) + end
    yield "64 files", (_PART + bytes(size // 64) + b"\r\n") * 64 + end[2:]
    yield "small parts", _fill(_PART + b"\r\n", size) + end[2:]
    yield "small fields", _fill(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n', size) + end[2:]
    yield "boundaries", _fill(b"--x\r\n", size)
    yield "ends", _fill(b"--x--\r\n", size)
    yield "what almost is a boundary", _PART + _fill(b"\r\n--", size) + end
    yield "what goes on after a boundary", _PART + _fill(b"\r\n--xy", size) + end
    yield "line breaks", _PART + _fill(b"\r\n", size) + end
    yield "half line breaks", _PART + _fill(b"\r", size) + end
    yield "hyphens", _PART + _fill(b"-", size) + end
    yield "line breaks alone", _fill(b"\r\n", size)
    yield "something before", _fill(b"\r\n--", size) + b"\r\n" + _PART + end
    yield "something after", _PART + end + _fill(b"--x\r\n", size)
    yield "an end that is missing", _PART + bytes(size)
    yield "a header without end", b"--x\r\nA: " + _fill(b"b", size)
    yield "headers", b"--x\r\n" + _fill(b"A: b\r\n", size) + end
    yield "a head without end", b"--x\r\n" + _fill(b"\r", size)
    yield "blanks behind a boundary", b"--x" + _fill(b" ", size)
    name = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
    yield "a name of backslashes", name % _fill(b"\\", 3_800) + end
    yield "names of quotation marks", name % _fill(b'"; a="', 3_800) + end
    yield (
        "a name in percent",
        b"--x\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''%b\r\n\r\n" % (_fill(b"%41", 3_800)) + end,
    )
    yield "a field", b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n' + _fill(b"1", size) + end


def _packed(size: int, image: bytes) -> Iterator[Hostile]:
    def request(name: str, body: bytes, content_type: str = "image/jpeg") -> Hostile:
        headers = {"content-type": content_type, "content-encoding": "gzip"}
        return Hostile(f"gzip: {name}", "POST", "/v1/classify", headers, body)

    def pack(body: bytes, level: int = 1) -> bytes:
        return gzip.compress(body, level, mtime=0)

    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(2**20)) for _ in range(512)) + bomb.flush()
    yield request("a bomb of half a gigabyte", packed)
    yield request("a bomb in a bomb", pack(packed))
    yield request("an image", pack(image))
    yield request("as large as it may be", pack(bytes(size)))
    yield request("what cannot be packed", pack(_noise(size // 2), 0))
    yield request("base64 in JSON", pack(b'{"images":[{"base64":"%b"}]}' % _fill(b"A\\n", size)), "application/json")
    yield request("members", _fill(pack(b""), size))
    yield request("empty blocks", pack(b"")[:10] + _fill(b"\x00\x00\x00\xff\xff", size))
    yield request("something behind", pack(image) + bytes(size))
    yield request("no end", pack(_noise(size // 2), 0)[:-9])
    yield request("none", bytes(size))


def _noise(size: int) -> bytes:
    block = zlib.compress(b"".join(struct.pack("<I", (i * 2654435761) % 2**32) for i in range(65_536)))
    return _fill(block, size)


def _heads(image: bytes) -> Iterator[Hostile]:
    raw = {"content-type": "image/jpeg"}
    yield Hostile("query: top_k again and again", "POST", "/v1/classify?" + "top_k=1&" * 100_000, raw, image)
    yield Hostile("query: percent", "POST", "/v1/classify?top_k=" + "%31" * 100_000, raw, image)
    yield Hostile("query: keys", "GET", "/v1/model?" + "&".join(f"a{i}=1" for i in range(100_000)), {}, b"")
    yield Hostile("path: slashes", "GET", "/" * 1_000_000, {}, b"")
    yield Hostile("path: a model", "GET", "/v2/models/" + "a" * 1_000_000, {}, b"")
    yield Hostile("path: a version", "GET", "/v2/models/a/versions/" + "a/" * 500_000, {}, b"")
    yield Hostile("headers: many", "POST", "/v1/classify", {**raw, **{f"a{i}": "b" for i in range(20_000)}}, image)
    yield Hostile("headers: a kind", "POST", "/v1/classify", {"content-type": ";a=b" * 250_000}, image)
    for name, value in [
        ("content-type", "multipart/form-data" + ";a=b" * 250_000),
        ("content-type", 'multipart/form-data; boundary="' + "\\" * 1_000_000),
        ("content-type", "multipart/form-data; boundary=" + "x" * 1_000_000),
        ("content-encoding", "gzip, " * 150_000),
        ("x-request-id", "x" * 1_000_000),
        ("authorization", "Bearer " + "x" * 1_000_000),
        ("inference-header-content-length", "9" * 1_000_000),
    ]:
        headers = {"content-type": "image/jpeg", name: value}
        yield Hostile(f"headers: {name} {value[:36]}", "POST", "/v1/classify", headers, image)
    for name, value in [
        ("if-none-match", '"a", ' * 200_000),
        ("range", "bytes=" + "0-0," * 250_000),
        ("range", "bytes=" + "9" * 1_000_000 + "-"),
        ("range", " " * 1_000_000),
    ]:
        yield Hostile(f"headers: {name} {value[:10]}", "GET", "/assets/page.js", {name: value}, b"")


def _large_answers(image: bytes, infer: str) -> Iterator[Hostile]:
    text = base64.b64encode(image).decode()
    body = json.dumps({"images": [{"base64": text}] * 64, "top_k": 1000}).encode()
    yield Hostile("answer: 64 images, 1000 labels", "POST", "/v1/classify", JSON, body)
    tensor = {"name": "image", "shape": [64], "datatype": "BYTES", "data": [text] * 64}
    for binary in (False, True):
        more = {"parameters": {"top_k": 1000, "binary_data_output": binary}}
        body = json.dumps({"inputs": [tensor], **more}).encode()
        yield Hostile(f"answer: tensors, binary {binary}", "POST", infer, JSON, body)
    for url in ("/v1/model", "/openapi.json", "/assets/swagger-ui-bundle.js", "/", "/docs"):
        yield Hostile(f"answer: {url}", "GET", url, {}, b"")
