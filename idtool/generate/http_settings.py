"""Settings that all image servers share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from idtool.generate.method import MethodSettings


class HttpSettings(MethodSettings):
    """Settings of every image server. The key is in none of them: `key_env` names the variable that holds it."""

    base_url: str | None = Field(default=None, exclude=True)
    """Address of the server, up to the path that all calls share; null: from the variable `base_env`. It may be
    private, so records hold a hash of it."""
    base_env: str = "IDTOOL_IMAGES_BASE"
    key_env: str = "IDTOOL_IMAGES_KEY"
    """No key is sent when the variable is not set."""
    people: tuple[int, int] = (0, 14)
    """Fewest and most reference images that the model takes."""
    timeout_s: float = Field(default=180.0, gt=0)
    """Seconds for one try."""
    retries: int = Field(default=5, ge=0, le=20)
    """Tries after the first, on connection errors, time-outs, 429 and 5xx."""
    backoff_s: float = Field(default=1.0, ge=0)
    """Longest wait before the second try, doubled for each further one; drawn at random below that."""
    max_wait_s: float = Field(default=120.0, ge=0)
    """Longest wait, and the longest that a server may ask for."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Of this process; null: no limit but the server's."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests under way at a time."""
    fit: Literal["none", "cover"] = "none"
    """none: the image as the server made it; cover: scaled and cut to the size that was asked for."""
    long_side: int = Field(default=2048, ge=64, le=8192)
    """Pixels of a reference's longer side, at most."""
    price_per_image: float | None = Field(default=None, ge=0)
    """In your currency, for `facts.cost`."""
    price_in: float | None = Field(default=None, ge=0)
    """Per million tokens that go in, where the server counts them and no price per image is given."""
    price_out: float | None = Field(default=None, ge=0)
    """Per million tokens that come out."""
    max_mb: int = Field(default=64, ge=1, le=1024)
    """Size of a response, at most."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body, as the server's documentation has them."""
