"""What went wrong at a place for adapters, in words for people: each of fsspec's packages has errors of its own."""

from __future__ import annotations

from service.errors import AdapterUnreachable

AGAIN = "See that the place can be reached, or put the adapter there again with `hone adapters export`."
_KEYS = (
    "Credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
    "GOOGLE_APPLICATION_CREDENTIALS) or from the machine's role, and need the right to read, write, list and remove "
    "there (docs/deploying.md)."
)
_RIGHTS = "See what Hone's user may read and write there."
_ADDRESS = "See that it runs and that the network leads there; AWS_ENDPOINT_URL names an S3 that isn't Amazon's."
_WITHOUT_KEYS = (
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",
    "TokenRetrievalError",
)
"""Names of classes, of botocore and google.auth: nobody imports those for their errors' sake."""


def unreachable(what: str, error: Exception, on_disk: bool = False) -> AdapterUnreachable:
    """The error to raise. `what` couldn't be done, such as "s3://bucket/v3 can't be read"; `on_disk`: on this
    machine's."""
    kind, said = type(error).__name__, described(error)
    if kind in _WITHOUT_KEYS:
        return AdapterUnreachable(f"{what}: there are no credentials for it ({said}).", _KEYS)
    if isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403):
        return AdapterUnreachable(f"{what}: it refuses ({said}).", _RIGHTS if on_disk else _KEYS)
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in kind or "Timeout" in kind:
        return AdapterUnreachable(f"{what}: it doesn't answer ({said}).", _ADDRESS)
    return AdapterUnreachable(f"{what}: {said}.", AGAIN)


def no_bucket(bucket: str, url: str) -> AdapterUnreachable:
    return AdapterUnreachable(f"There is no bucket {bucket!r} for {url}.", "Make it, or name another (adapters.url).")


def described(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
