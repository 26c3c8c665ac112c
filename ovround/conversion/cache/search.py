"""From whatever names a model to a folder that engines run, converted once where it has to be.

A name on the hub is looked up in the cache before anything else, so a second start needs no network. The first start rounds
the weights, which takes seconds to minutes; tuning them is `ovround convert`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ovround.artifact.manifest import ENGINE_FORMATS, MANIFEST
from ovround.artifact.output_folder import remove_folder
from ovround.conversion.cache.at_once import convert_at_once
from ovround.conversion.cache.source import Source, hub_source, local_source
from ovround.conversion.cache.store import ENVIRONMENT, CachedModel, ModelCache, Record, Request, folder_bytes
from ovround.errors import OutputError, UsageError
from ovround.options.convert_options import ConvertOptions, default_of
from ovround.options.option import one_of
from ovround.progress import OnProgress, silent

_PLAIN = re.compile(r"demo|[^/:]+/[^/]+")  # a hub name, or a path that is not there
ENGINE_FILES = ("openvino_model.xml", "model.onnx")
OnMessage = Callable[[str], None]
ChooseBits = Callable[[str, str], int | None]
"""Bits for a model, by its name, in a format; None: its integers are kept."""


def _say_nothing(message: str) -> None:
    """The default of `on_message`."""


def cached_model(
    model: str | Path, *, bits: int | None = None, format: str | None = None,  # noqa: A002  the word of the options
    on_message: OnMessage = _say_nothing, on_progress: OnProgress = silent, choose_bits: ChooseBits | None = None,
) -> Path:  # fmt: skip
    """The folder that `LLM` loads for `model`: a folder of ours, a checkpoint folder, a GGUF file, a hub name, or `demo`.

    What engines run already is returned as it is. Anything else is converted once, by rounding each weight to the nearest
    level, into the cache (`cache_folder`), and found there from then on, without a network. `bits`: of a weight, 4 by
    default, or what `choose_bits` says of model and format; a quantised source keeps its own. `format`: openvino, the
    default, or onnx. Of two processes that ask at once one converts, and the other waits. A conversion whose files are
    missing or of another size is made again.

    Raises UsageError for options that a converted folder cannot have, and what `convert` raises.
    """
    model = _plain_name(str(model))
    if runs_as_it_is(Path(model).expanduser()):
        for name, value in (("bits", bits), ("format", format)):
            if value is not None:
                raise UsageError(
                    f"{name} is {value}, yet `{model}` is converted already",
                    hint=f"leave --{name} out, or give the model that it was converted from",
                )
        return Path(model).expanduser()
    if format is not None:
        one_of("format", format, ENGINE_FORMATS)
    options = ConvertOptions(
        formats=default_of("formats") if format is None else (format,),
        bits=default_of("bits") if bits is None else bits,
    )
    search = _Search(ModelCache(), model, options, on_message, on_progress)
    return search.folder() if bits is not None or choose_bits is None else search.folder_of_chosen(choose_bits)


def _plain_name(model: str) -> str:
    """One text for all ways to name a model. What is one already needs no reader of names, whose import takes 0.15 s."""
    if _PLAIN.fullmatch(model) or Path(model).expanduser().exists():
        return model
    from ovround.checkpoint.locate import plain_name

    return plain_name(model)


def runs_as_it_is(path: Path) -> bool:
    """Whether engines load `path`, or say which folder within it they load."""
    if any((path / name).is_file() for name in ENGINE_FILES):
        return True
    return any((path / name / MANIFEST).is_file() for name in ENGINE_FORMATS)


def remove_if_damaged(folder: Path) -> str | None:
    """Compare every byte of a conversion in the cache, and remove it where one differs; what differs, else None."""
    cache = ModelCache()
    found = cache.at(folder)
    damage = None if found is None else found.damage(contents=True)
    if found is not None and damage is not None:
        cache.remove(found)
    return damage


@dataclass(frozen=True, slots=True)
class _Search:
    """One call of `cached_model`: where it looks, and what it makes where nothing is found."""

    cache: ModelCache
    model: str
    options: ConvertOptions
    on_message: OnMessage
    on_progress: OnProgress

    @property
    def request(self) -> Request:
        return Request(self.options.formats[0], self.options.bits)

    def folder(self) -> Path:
        from ovround.checkpoint import locate

        path = Path(self.model).expanduser()
        if path.exists():
            path = locate(str(path))
            return self._converted(str(path.absolute()), local_source(path))
        found = self._named()
        if found is not None:
            return found
        with self.cache.locked(self.cache.place(self.model, self.model, self.request).name, self._waiting):
            return self._named() or self._converted(self.model, hub_source(locate(self.model, self.on_progress)))

    def folder_of_chosen(self, choose_bits: ChooseBits) -> Path:
        """As `folder`, with the bits of an earlier choice, or else a new one."""
        path, format_name = Path(self.model).expanduser(), self.options.formats[0]
        named = str(path.absolute()) if path.exists() else self.model
        identity = local_source(path).identity if path.exists() else None
        found = self._intact(self.cache.chosen(named, format_name, identity), named)
        if found is not None:
            return found
        bits = choose_bits(self.model, format_name)
        chosen = self if bits is None else replace(self, options=replace(self.options, bits=bits))
        folder = chosen.folder()
        kept = self.cache.at(folder)
        if kept is not None:
            self.cache.choose(kept)
        return folder

    def _named(self) -> Path | None:
        return self._intact(self.cache.named(self.model, self.request), self.model)

    def _converted(self, named: str, source: Source) -> Path:
        place = self.cache.place(named, source.identity, self.request)
        found = self._intact(self.cache.at(place), named)
        if found is not None:
            return found
        with self.cache.locked(place.name, self._waiting):
            return self._intact(self.cache.at(place), named) or self._convert(named, source, place)

    def _convert(self, named: str, source: Source, place: Path) -> Path:
        remove_folder(place)  # what a killed process left, or what is damaged
        started = time.monotonic()
        request = self.request
        try:
            done = convert_at_once(source.path, place, self.options, self.model, self.on_message, self.on_progress)
        except OutputError as error:
            hint = f"`ovround cache prune` and `ovround cache remove` free space; {ENVIRONMENT} names another folder"
            raise OutputError(str(error), hint=hint) from error
        size, now = folder_bytes(place), time.time()
        self.cache.add(place, Record((named,), source.identity, request.format, request.bits, done.method, size, now))
        self.on_message(f"kept in `{place}`: {size / 1e6:.0f} MB, {time.monotonic() - started:.0f} s")
        if done.advice:
            self.on_message(f"hint: {done.advice}")
        return place

    def _intact(self, found: CachedModel | None, named: str) -> Path | None:
        """The folder of a conversion whose files are there, noted as used; that they are not is said."""
        if found is None:
            return None
        damage = found.damage(contents=False)
        if damage is not None:
            self.on_message(f"warning: the conversion in the cache is damaged, and is made again: {damage}")
            return None
        self.cache.used(found, named)
        return found.folder

    def _waiting(self, holder: str) -> None:
        self.on_message(f"waiting for process {holder or '?'}, which converts `{self.model}`")
