"""Why a data set could not be loaded, in words and with what to do about it."""

from __future__ import annotations

from audiorl.datasets.corpus import nearest_corpus

# what `datasets` says of a repository with a loading script
_SCRIPT = "scripts are no longer supported"


def is_about_loading(error: Exception) -> bool:
    """Whether a loader's RuntimeError is about the data set, and not about the program."""
    return _SCRIPT in str(error)


def loading_problem(name: str, error: Exception, hint: str = "") -> ValueError:
    """The error to raise instead of a loader's.

    Args:
        name: of the data set or its folder.
        error: what `datasets` raised.
        hint: what else to do, a sentence.
    """
    reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
    hint = f" {hint}" if hint else ""
    told = f"{name} could not be loaded as a data set: {reason.rstrip('.')}."
    if "gated" in reason:
        page = f"https://huggingface.co/datasets/{name}"
        return ValueError(f"{told} Ask for access on {page}, then run `hf auth login`.{hint}")
    if _SCRIPT in reason:
        return ValueError(
            f"{told} Load its Parquet copy instead: datasets.load_dataset(..., revision='refs/convert/parquet') where "
            f"the Hub has made one, or a corpus that `audiorl datasets` lists.{hint}"
        )
    near = nearest_corpus(name)
    meant = f"Did you mean the corpus {near!r}? " if near else ""
    return ValueError(
        f"{told} {meant}Check the name and the split, and for the Hub the network and `hf auth login`; a folder of "
        f"audio files needs a JSON lines file that lists them.{hint}"
    )
