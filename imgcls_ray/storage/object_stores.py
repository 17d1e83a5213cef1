"""Open a bucket of any kind with obstore: endpoint, credentials, time-outs.

Credentials come from each cloud's usual places. AWS's chain is botocore's own (profiles, single sign-on, processes,
roles), which obstore lacks; it is asked again before they expire. obstore has those of Google and Azure.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.schemes import bucket_name

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureStore, ClientConfig, GCSConfig, GCSStore, RetryConfig, S3Config, S3Store

    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.storage.s3 import S3Requests

CONNECT_TIMEOUT_S = 5.0
# Silence on a connection that long is a stall; the whole of an object may take longer.
READ_TIMEOUT_S = 10.0
# Servers close what was silent for about a minute.
_IDLE_TIMEOUT_S = 20.0
# The first attempt to read an input has a time for the whole of it; one that takes longer is made again without.
QUICK_TIMEOUT_S = 15.0
# Of a name with other characters obstore makes an address that is none, and panics.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9._$:@-]+")
_NO_RETRIES: RetryConfig = {"max_retries": 0}
# Of a folder that is listed in one request of several pages: a page that fails must not begin all of them again.
_RETRIES_OF_PAGES: RetryConfig = {
    "max_retries": 6,
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}


Store: TypeAlias = "S3Store | GCSStore | AzureStore"


class Bucket(NamedTuple):
    """One bucket, for patient requests, for quick ones, whose connections are their own, and for whole folders."""

    patient: Store
    quick: Store
    folders: Store
    """The only one that tries again by itself; of S3, whose folders are listed page by page, the patient one."""


async def open_bucket(bucket: str, kind: str, options: StorageOptions, s3: S3Requests | None) -> Bucket:
    """Open a bucket; nothing is asked for, except where a bucket of AWS is.

    Raises:
        ObjectError: the environment lacks what is needed, or has what cannot be.
        Exception: of ``s3``'s client.
    """
    if not _BUCKET_NAME.fullmatch(bucket_name(bucket)):
        raise ObjectError(Failure.NO_BUCKET, f"Invalid bucket name {bucket_name(bucket)!r}")
    patient: ClientConfig = {"read_timeout": timedelta(seconds=READ_TIMEOUT_S)}
    quick: ClientConfig = {"timeout": timedelta(seconds=QUICK_TIMEOUT_S)}
    if s3 is not None:
        config = await s3.config_of(bucket_name(bucket))
        trusted = await s3.root_certificate()
        opened = _open_s3(bucket, config, s3, _client(patient, trusted))
        return Bucket(opened, _open_s3(bucket, config, s3, _client(quick, trusted)), folders=opened)
    open_store = _open_gs if kind == "gs" else _open_az
    ways = ((patient, _NO_RETRIES), (quick, _NO_RETRIES), (patient, _RETRIES_OF_PAGES))
    return Bucket(*(open_store(bucket, options, _client(own, None), retries) for own, retries in ways))


def _client(own: ClientConfig, trusted: bytes | None) -> ClientConfig:
    client: ClientConfig = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "pool_idle_timeout": timedelta(seconds=_IDLE_TIMEOUT_S),
        **own,
    }
    if trusted is not None:
        client["root_certificate"] = trusted
    return client


def _open_s3(bucket: str, config: S3Config, s3: S3Requests, client: ClientConfig) -> S3Store:
    from obstore.store import S3Store

    return S3Store(
        bucket_name(bucket),
        config=config,
        client_options=client,
        retry_config=_NO_RETRIES,
        credential_provider=None if s3.is_anonymous else s3.signing_keys,
    )


def _open_gs(bucket: str, options: StorageOptions, client: ClientConfig, retries: RetryConfig) -> GCSStore:
    from obstore.store import GCSStore

    config: GCSConfig = {}
    if options.endpoint_url is not None:
        config["base_url"] = options.endpoint_url.rstrip("/")
    if options.anonymous:
        config["skip_signature"] = True
    if options.requester_pays:
        if not (project := os.environ.get("GOOGLE_CLOUD_PROJECT")):
            raise ObjectError(Failure.STORAGE, "requester_pays needs the project that pays in GOOGLE_CLOUD_PROJECT")
        client["default_headers"] = {"x-goog-user-project": project}
    return GCSStore(bucket_name(bucket), config=config, client_options=client, retry_config=retries)


def _open_az(bucket: str, options: StorageOptions, client: ClientConfig, retries: RetryConfig) -> AzureStore:
    from obstore.store import AzureStore

    # abfss://CONTAINER@ACCOUNT.dfs.core.windows.net names the account, az://CONTAINER leaves it to the environment.
    container, _, host = bucket_name(bucket).partition("@")
    config: AzureConfig = {}
    if host:
        config["account_name"] = host.partition(".")[0]
    elif not (os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_USE_EMULATOR")):
        raise ObjectError(Failure.STORAGE, "the account is not named: set AZURE_STORAGE_ACCOUNT_NAME")
    if options.endpoint_url is not None:
        config["endpoint"] = options.endpoint_url.rstrip("/")
    if options.anonymous:
        config["skip_signature"] = True
    return AzureStore(container, config=config, client_options=client, retry_config=retries)
