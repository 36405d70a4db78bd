"""What a teacher says about every target of every sequence, computed once and kept on disk.

One folder per teacher and question (temperature, k, vocabulary), one file per few ten thousand targets, named
by the hash of its bytes. A file is written aside and renamed when complete, so a killed run loses at most the
file it was writing; the next run verifies what is there, drops what is damaged, and computes what is missing.

A sequence is found by the hash of its token ids and of which of them are targets. So a changed row, another
rendering or another teacher is never answered from the cache.

Per target a file holds k float32 log-probabilities, the log of the mass of all other tokens, and k int32 ids
(none where only ranks are compared). The rest has a number of its own because 1 - sum p would lose it to
rounding. float16 would save a quarter of the space, but shift the loss of a token by up to 5e-4, as much as a
student has left that is close to its teacher.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from tunewright.core.hashing import digest, file_digest
from tunewright.core.paths import written_atomically
from tunewright.objectives.base import Batch
from tunewright.objectives.divergences import TopK
from tunewright.objectives.teacher import Asked, Teacher

FORMAT = 1
FILE_TARGETS = 2**16


class Filled(NamedTuple):
    """What ``CachedTeacher.fill`` did: targets computed and found, and names of damaged files it removed."""

    computed: int
    reused: int
    damaged: tuple[str, ...]


class CachedTeacher:
    """Answers from files; implements ``teacher.Teacher``. ``teacher`` is its ``fingerprint``."""

    def __init__(self, root: Path, teacher: str, asked: Asked) -> None:
        assert asked.top_k > 0, "a cache of whole distributions would not fit; ask a live teacher"
        self.asked = asked
        self.folder = root / digest([FORMAT, teacher, *asked])[:32]
        self._files: list[dict[str, Tensor]] = []
        self._where: dict[bytes, tuple[int, int]] = {}  # key of a sequence -> its file, its first row there
        self._located: tuple[Batch, Tensor] | None = None
        self._damaged: list[str] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            self._open(path)

    def fill(
        self, batches: Iterable[tuple[Batch, Batch]], live: Teacher, file_targets: int = FILE_TARGETS
    ) -> Filled:
        """Ask ``live`` for everything in ``batches`` that is not on disk yet, validation rows included.

        Each pair is the same sequences in the same order, as the student and as the teacher read them; it is
        the same batch twice where they share a vocabulary.
        """
        computed = reused = 0
        waiting: list[tuple[bytes, TopK]] = []
        pending: set[bytes] = set()
        for student, teacher in batches:
            known = self._where.keys() | pending
            news = {key: rows for key, rows in sequence_keys(student) if key not in known}
            count = sum(len(rows) for rows in news.values())
            computed, reused = computed + count, reused + len(student.targets.ids) - count
            if news:
                waiting += _ask(live, student, teacher, news)
                pending |= news.keys()
            if sum(len(top.rest) for _, top in waiting) >= file_targets:
                self._write(waiting)
                waiting, pending = [], set()
        if waiting:
            self._write(waiting)
        return Filled(computed, reused, tuple(self._damaged))

    def distribution(self, batch: Batch, rows: Tensor) -> TopK:
        """See ``Teacher``."""
        places = self._locate(batch)[rows.cpu()]
        numbers = sorted(set(places[:, 0].tolist())) or [0]
        order = torch.cat([torch.nonzero(places[:, 0] == number)[:, 0] for number in numbers])
        back = order.argsort()

        def read(name: str) -> Tensor:
            parts = [self._files[n][name][places[places[:, 0] == n, 1]] for n in numbers]
            return torch.cat(parts)[back].to(batch.ids.device)

        ids = read("ids").long() if self.asked.size is not None else None
        return TopK(read("logprobs"), read("rest"), ids)

    def _locate(self, batch: Batch) -> Tensor:
        """File and row of every target of ``batch``: (N, 2)."""
        if self._located is None or self._located[0] is not batch:
            places = torch.empty(len(batch.targets.ids), 2, dtype=torch.long)
            for key, rows in sequence_keys(batch):
                assert key in self._where, f"rows {batch.rows} hold a sequence that the teacher never read"
                number, first = self._where[key]
                places[rows, 0] = number
                places[rows, 1] = first + torch.arange(len(rows))
            self._located = (batch, places)
        return self._located[1]

    def _open(self, path: Path) -> None:
        if file_digest(path) != path.stem:
            self._damaged.append(path.name)
            path.unlink()
            return
        tensors = load_file(path)  # memory-mapped
        counts = tensors["counts"]
        firsts = (counts.cumsum(0) - counts).tolist()
        for key, first in zip(tensors["keys"], firsts, strict=True):
            self._where[key.numpy().tobytes()] = (len(self._files), first)
        self._files.append(tensors)

    def _write(self, answers: list[tuple[bytes, TopK]]) -> None:
        tops = [top for _, top in answers]
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(k for k, _ in answers)), dtype=torch.uint8).view(
                -1, hashlib.sha256().digest_size
            ),
            "counts": torch.tensor([len(top.rest) for top in tops]),
            "logprobs": torch.cat([top.logprobs for top in tops]),
            "rest": torch.cat([top.rest for top in tops]),
        }
        if self.asked.size is not None:
            tensors["ids"] = torch.cat([top.ids for top in tops if top.ids is not None]).int()
        data = save(tensors)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        with written_atomically(path) as temporary:
            temporary.write_bytes(data)
        self._open(path)


def sequence_keys(batch: Batch) -> Iterator[tuple[bytes, Tensor]]:
    """For every segment with targets: the hash of what is read up to its end, and its targets' indices (n,).

    The hash covers the ids of the segment and of the prefix it continues, and the positions of its targets.
    """
    ids = batch.ids.cpu()
    positions = batch.positions.cpu()[batch.targets.source.cpu()]
    owners = batch.targets.segment.cpu()
    for number, segment in enumerate(batch.segments):
        rows = torch.nonzero(owners == number)[:, 0]
        if len(rows) == 0:
            continue
        own = ids[segment.start : segment.start + segment.length]
        prefix = own[:0]
        if segment.parent is not None:
            parent = batch.segments[segment.parent]
            prefix = ids[parent.start : parent.start + parent.length]
        parts = (torch.cat([prefix, own]), positions[rows])
        yield hashlib.sha256(b"".join(_digest(part) for part in parts)).digest(), rows


def _digest(values: Tensor) -> bytes:
    return hashlib.sha256(values.long().numpy().tobytes()).digest()


def aligned(student: Batch, teacher: Batch) -> Tensor:
    """For each target of ``student`` the target of ``teacher`` it is compared with, -1 for none: (N,).

    Token i of an answer is compared with token i of the same answer (Boizard et al. 2024 cut the longer of
    the two off). An answer is an unbroken stretch of targets, so a later turn starts level again.
    """
    partner = {place: row for row, place in enumerate(_places(teacher))}
    return torch.tensor([partner.get(place, -1) for place in _places(student)], dtype=torch.long)


def _places(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """Segment, number of the answer in it, and place in that answer of every target."""
    positions = batch.positions[batch.targets.source].tolist()
    before, answer, place = (-1, -1), 0, 0
    for segment, position in zip(batch.targets.segment.tolist(), positions, strict=True):
        if segment != before[0]:
            answer = place = 0
        elif position != before[1] + 1:
            answer, place = answer + 1, 0
        else:
            place += 1
        before = (segment, position)
        yield segment, answer, place


def _ask(
    live: Teacher, student: Batch, teacher: Batch, news: dict[bytes, Tensor]
) -> list[tuple[bytes, TopK]]:
    """The teacher's answers for the targets ``news`` of ``student``, as it reads them in ``teacher``."""
    assert len(student.segments) == len(teacher.segments), (
        f"{len(student.segments)} sequences for the student, {len(teacher.segments)} for the teacher"
    )
    wanted = torch.cat(list(news.values()))
    partners = (wanted if student is teacher else aligned(student, teacher)[wanted]).to(teacher.ids.device)
    found = live.distribution(teacher, partners.clamp_min(0))
    assert isinstance(found, TopK)
    missing = partners < 0
    logprobs = found.logprobs.masked_fill(missing[:, None], math.nan).cpu()
    rest = found.rest.masked_fill(missing, math.nan).cpu()
    ids = None if found.ids is None else found.ids.cpu()
    answers, start = [], 0
    for key, rows in news.items():
        part = slice(start, start + len(rows))
        answers.append((key, TopK(logprobs[part], rest[part], None if ids is None else ids[part])))
        start += len(rows)
    return answers
