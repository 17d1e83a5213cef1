"""A bucket with more names than a page of a listing holds, made once."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

if TYPE_CHECKING:
    from tests.s3.server import S3Server

_NUM_WRITERS = 16
# "/" sorts between "." and "0": a folder's names are not next to the folder's name.
_AROUND_A_FOLDER = ("x", "x-1", "x.1", "x/", "x/1", "x/1/1", "x/10", "x/1/", "x0", "xx/")


class Crowd(NamedTuple):
    """A bucket, and the keys that were put in it, unsorted."""

    bucket: str
    keys: list[str]


@pytest.fixture(scope="session")
def crowd(s3: S3Server) -> Crowd:
    """Some 2,900 objects: a long folder, folders of days, many small folders, deep ones, and names around a folder.

    Each holds its key, except the one marker of a folder, ``x/``, which is empty. Nothing may be written to it.
    """
    keys = [f"long/{i:05d}.jpg" for i in range(1101)]
    keys += [f"days/2026-01-{day:02d}/{i:03d}.jpg" for day in range(1, 13) for i in range(60)]
    keys += [f"many/{i:04d}/1.jpg" for i in range(1050)]
    keys += [f"deep/{'a/' * depth}{i}.jpg" for depth in range(12) for i in range(5)]
    keys += [*_AROUND_A_FOLDER, "first.jpg", "~last.jpg", "long.jpg", "days"]
    client = s3.client()
    client.create_bucket(Bucket="test-crowd")
    # Written by anyone for a moment: signing thousands of requests takes longer than answering them.
    anyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::test-crowd/*"}
    client.put_bucket_policy(Bucket="test-crowd", Policy=json.dumps({"Version": "2012-10-17", "Statement": [anyone]}))
    with ThreadPoolExecutor(_NUM_WRITERS) as executor:
        shares = [keys[i::_NUM_WRITERS] for i in range(_NUM_WRITERS)]
        list(executor.map(_put_all, [s3.endpoint_url] * _NUM_WRITERS, shares))
    client.delete_bucket_policy(Bucket="test-crowd")
    return Crowd("test-crowd", keys)


def _put_all(endpoint_url: str, keys: list[str]) -> None:
    connection = http.client.HTTPConnection(urlsplit(endpoint_url).netloc)
    for key in keys:
        connection.request("PUT", f"/test-crowd/{quote(key)}", b"" if key == "x/" else key.encode())
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
    connection.close()
