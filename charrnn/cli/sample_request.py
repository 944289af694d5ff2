"""The options of `charrnn sample`, and the combinations of them that make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..storage.inputs import require_not_input
from .sample_output import PLACEHOLDER, files_of

LENGTH = 500
SAMPLING_OPTIONS = (  # without effect in a beam search, which samples nothing
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "first", "num_samples",
    "unique", "not_in", "match", "min_length", "max_length",
)  # fmt: skip


@dataclass(frozen=True)
class SampleRequest:
    """The options of the command."""

    models: tuple[str, ...]
    mix: tuple[float, ...] | None
    threads: int | None
    length: int | None
    lines: int | None
    stop: tuple[str, ...]
    prime: str
    prime_file: str | None
    primes: str | None
    mid_line: bool
    omit_prime: bool
    unknown: str
    allow: str | None
    forbid: str
    repetition_penalty: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    first: int
    beam: int | None
    all: bool
    num_samples: int
    unique: bool
    not_in: str | None
    match: str | None
    min_length: int
    max_length: int | None
    separator: str | None
    jsonl: bool
    output: str
    novelty: str | None
    corpus_encoding: str | None

    @property
    def length_limit(self) -> int | None:
        """The limit of a text's length; None: no limit."""
        if self.length is None and self.lines is None:
            return LENGTH
        return self.length or None

    @property
    def num_texts(self) -> int:
        """The number of texts after each prime, at most."""
        return (self.beam or 1) if self.all else self.num_samples

    @property
    def is_single(self) -> bool:
        """Whether one text is written."""
        return self.primes is None and self.num_texts == 1

    @property
    def total_length(self) -> int | None:
        """The length of all texts together; None if it is not known before."""
        if self.length_limit is None or self.lines or self.stop or self.primes:
            return None
        return self.length_limit * self.num_texts

    @property
    def needs_whole_texts(self) -> bool:
        """Whether a text can be written only when it is complete."""
        limits = self.match is not None or self.max_length is not None
        conditions = self.unique or self.not_in or self.min_length or limits
        return bool(self.jsonl or conditions)


def check_usage(request: SampleRequest, explicit: set[str]) -> None:
    """Reject options that exclude each other, and outputs that would replace an input.

    explicit: the names of the options that were given.
    """
    r = request
    _check_primes(r)
    if r.all and r.beam is None:
        raise UsageError("--all writes all texts of a beam search: give --beam, or omit --all.")
    if r.beam is not None and (ignored := [n for n in SAMPLING_OPTIONS if n in explicit]):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise UsageError(f"a beam search does not sample: omit {names}, or omit --beam.")
    if r.beam is not None and len(r.models) > 1:
        raise UsageError("a beam search has one model: give one -m, or omit --beam.")
    if r.jsonl and "separator" in explicit:
        raise UsageError("JSON lines have no separator: give --jsonl or --separator, not both.")
    if r.jsonl and r.omit_prime:
        raise UsageError("JSON lines have the prime apart: omit --omit-prime, or omit --jsonl.")
    if r.jsonl and PLACEHOLDER in r.output:
        raise UsageError(f"--jsonl writes all texts to one file: omit {PLACEHOLDER} in its name.")
    if r.corpus_encoding and not r.novelty:
        raise UsageError("--corpus-encoding is that of --novelty: give both, or omit it.")
    if [r.prime_file, r.primes, r.not_in].count("-") > 1:
        raise UsageError("stdin can be read only once: give - for one file only.")
    inputs = filter(None, (*r.models, r.prime_file, r.primes, r.not_in, r.novelty))
    outputs = files_of(r.output, r.num_texts)
    require_not_input(outputs, inputs, what="the output", option="--output")


def check_end(r: SampleRequest, has_records: bool) -> None:
    """Reject --novelty for a text without an end; a record has one."""
    if r.novelty and r.length == 0 and not (r.lines or r.stop or has_records):
        raise UsageError("--novelty needs a text with an end: --length 0 has none.")


def _check_primes(r: SampleRequest) -> None:
    if len(given := [x for x in (r.prime or None, r.prime_file, r.primes) if x is not None]) > 1:
        raise UsageError("give one of --prime, --prime-file and --primes.")
    for is_set, name, what in (
        (r.mid_line, "--mid-line", "line to continue"),
        (r.omit_prime, "--omit-prime", "prime to omit"),
    ):
        if is_set and not given:
            raise UsageError(f"there is no {what}: give --prime, or omit {name}.")
    if r.primes is not None and r.num_samples > 1:
        raise UsageError(
            "--primes asks for one text after each prime: repeat primes, or omit --num-samples."
        )
    if r.primes is not None and PLACEHOLDER in r.output:
        raise UsageError(f"--primes writes all texts to one file: omit {PLACEHOLDER} in its name.")
