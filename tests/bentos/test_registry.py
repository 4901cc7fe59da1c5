"""What the registry says is not trusted: a tag never names a directory of its own choice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bentos.package import PackageError
from bentos.registry import Registry


@pytest.mark.parametrize("digest", ["..", "", "/", "../precious", "A" * 64, "0" * 63])
def test_a_digest_that_is_none_touches_no_directory(tmp_path: Path, digest: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    cache = tmp_path / "cache"
    cache.mkdir()

    async def fetch() -> Path:
        registry = Registry("http://127.0.0.1:9")
        try:
            return await registry.fetch_package("mlflow-artifacts:/1/run/artifacts/package", digest, cache)
        finally:
            await registry.close()

    with pytest.raises(PackageError, match="SHA-256"):
        asyncio.run(fetch())
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert cache.is_dir()
