"""An S3 server on this machine (moto's). The login is in the environment and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

KEY, SECRET = "AKIAS3TESTKEY0000000", "s3cr3t/NeverToBeWrittenDown+0123456789ab"


@contextmanager
def served(bucket: str) -> Iterator[pytest.MonkeyPatch]:
    """With an empty bucket; what is patched ends with it. Skips where a package of it is not here."""
    s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3] and flask")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", KEY)
            patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(bucket)
            yield patch
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
