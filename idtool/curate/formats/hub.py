"""Sending a data set to the Hugging Face hub: only when asked for, privately unless told otherwise, and not against the
terms that its images came with.

The token is read from the environment (`HF_TOKEN`) and goes nowhere else; one that `hf auth login` stored is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idtool.errors import MissingError, RunFailed, UsageError
from idtool.models import hub, weights

_REPO = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_NO_CONSENT = re.compile(
    r"^\W*(no|none|non|not|n|false|0|never|without)\b|\b(denied|refused|withdrawn|revoked|expired"
    r"|not (been )?(given|granted|obtained))\b",
    re.IGNORECASE,
)
_NO_LICENCE = re.compile(
    r"\b(all rights reserved|proprietary|confidential|private|internal|unlicen[cs]ed|copyrighted"
    r"|no (redistribution|sharing|licen[cs]e)|not? (to be )?(redistributed|shared|for redistribution))\b",
    re.IGNORECASE,
)

Terms = tuple[str, str, str]
"""Source, licence and consent, `not stated` where the input did not say."""
NOT_STATED = "not stated"


def repository(address: str) -> str:
    """`owner/name` of `hf:owner/name`. UsageError for anything else."""
    match = _REPO.fullmatch(address)
    if match is None:
        raise UsageError(f"--push {address}: not of the form hf:OWNER/NAME.", "As in --push hf:my-lab/faces.")
    return match[1]


def ready() -> str:
    """The token. Before anything is written: MissingError when it, or the hub's library, is not here; UsageError when
    a setting keeps the tool from the network."""
    if switch := hub.offline() or ("IDTOOL_OFFLINE" if weights.is_offline() else None):
        raise UsageError(f"{switch} forbids --push.", "Unset it to send the data set.")
    try:
        import huggingface_hub  # noqa: F401 - whether it is here
    except ImportError as error:
        raise MissingError("--push needs the package huggingface-hub.", "pip install 'idtool[exports]'.") from error
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise MissingError("--push needs a token with the right to write.", "Put it in the environment as HF_TOKEN.")
    return token


def objections(terms: Mapping[Terms, int], *, public: bool) -> dict[str, int]:
    """Why images must not be sent -> how many. A consent or a licence that says no is one; to the public also one that
    says nothing."""
    found: dict[str, int] = {}

    def count(why: str, images: int) -> None:
        found[why] = found.get(why, 0) + images

    for (_, licence, consent), images in terms.items():
        if public and NOT_STATED in (consent, licence):
            count(f"{'consent' if consent == NOT_STATED else 'licence'} is not stated", images)
        if consent != NOT_STATED and _NO_CONSENT.search(consent):
            count(f"consent is {consent!r}", images)
        elif licence != NOT_STATED and _NO_LICENCE.search(licence):
            count(f"licence is {licence!r}", images)
    return found


def push(
    folder: Path, repo: str, token: str, terms: Mapping[Terms, int], *, public: bool = False, overrule: bool = False
) -> dict[str, Any]:
    """Send the data set in `folder` to `repo`, making it, and deleting what else is in it. Returns what was done.

    `overrule`: the user vouches for images whose terms say otherwise. Raises UsageError where they do and the user does
    not, and where the repository is public and that was not asked for; RunFailed where the hub refuses.
    """
    against = objections(terms, public=public)
    if against and not overrule:
        listed = "; ".join(f"{images} images: {why}" for why, images in sorted(against.items()))
        raise UsageError(
            f"Nothing was sent to {repo}: {listed}.",
            f"Leave those images out, or say --yes-i-may-share. The data set is in {folder}.",
        )
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with _refusals(repo, folder, token):
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type="dataset").private:
            raise UsageError(
                f"{repo} is public already: nothing was sent.", "Make it private, choose another, or add --public."
            )
        commit = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            delete_patterns="*",
            commit_message="Data set written by idtool",
        )
    return {
        "to": repo,
        "visibility": "public" if public else "private",
        "commit": commit.oid,
        "overruled": against,
        "note": "earlier commits keep what was in them; HfApi.super_squash_history drops them",
    }


@contextmanager
def _refusals(repo: str, folder: Path, token: str) -> Iterator[None]:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"The hub takes no repository called {repo!r}.", str(error)) from error
    except (HfHubHTTPError, httpx.HTTPError) as error:
        text = _first_line(str(error)).replace(token, "…")
        raise RunFailed(f"The hub did not take {repo}: {text}", f"The data set is in {folder}; push again.") from error


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
