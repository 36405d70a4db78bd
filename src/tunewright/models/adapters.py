"""Several LoRA adapters over one base: switched, mixed in one batch, and swapped while answers are written.

adapters = Adapters(load("smollm2-135m-instruct"))
adapters.add("support", Path("runs/support/adapter"))
adapters.generate([prompt, prompt], sampling, ["support", None])
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

from peft import PeftModel

from tunewright.core.errors import ModelError
from tunewright.core.hashing import file_digest
from tunewright.core.names import nearest
from tunewright.models.base_record import check_base, recorded_changes
from tunewright.models.generate import Generated, Sampling, generate
from tunewright.models.load import Loaded
from tunewright.models.quantised import is_quantised
from tunewright.models.quiet import quiet_peft

WEIGHTS = "adapter_model.safetensors"
# Settings of a LoRA that PEFT cannot choose anew for every row of a batch.
ALONE = (
    "use_dora", "bias", "modules_to_save", "trainable_token_indices", "target_parameters",
    "alora_invocation_tokens",
)  # fmt: skip


class Adapters:
    """The adapters over one loaded base. Each has a public name and, inside, one name for every version.

    A swap adds the new version, then lets the public name mean it; the old one goes when nobody uses it any
    more. So every answer comes from exactly one version, whose digest is ``digest``.
    """

    def __init__(self, base: Loaded) -> None:
        if base.ref.adapter is not None:
            raise ModelError(f"{base.ref.name} is itself an adapter; start from its base")
        self.base = base
        self.model: Any = base.model
        self._versions: dict[str, str] = {}  # public name -> the version it means now
        self._digests: dict[str, str] = {}  # version -> sha256 of its weights
        self._users: dict[str, int] = {}
        self._number = count()

    @property
    def names(self) -> list[str]:
        """The public names."""
        return sorted(self._versions)

    def digest(self, name: str) -> str:
        """sha256 of the weights that ``name`` means now."""
        return self._digests[self._version(name)]

    def add(self, name: str, directory: Path) -> None:
        """Load an adapter under a new name. Raises ``ModelError`` if it does not fit the base."""
        if name in self._versions:
            raise ModelError(f"there is an adapter {name!r} already; swap it, or choose another name")
        self._versions[name] = self._loaded(directory)

    def swap(self, name: str, directory: Path) -> None:
        """Let ``name`` mean another adapter from now on; answers under way keep the one they began with."""
        old = self._version(name)
        self._versions[name] = self._loaded(directory)
        self._drop_if_idle(old)

    def remove(self, name: str) -> None:
        """Forget an adapter; answers under way keep it to their end."""
        version = self._version(name)
        del self._versions[name]
        self._drop_if_idle(version)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        names: Sequence[str | None],
        **options: Any,
    ) -> list[Generated]:
        """``generate`` with an adapter for each prompt; None is the base as it is."""
        versions = [None if name is None else self._version(name) for name in names]
        with self._using([v for v in versions if v is not None]):
            return generate(self.model, prompts, sampling, adapters=versions, **options)

    @contextmanager
    def only(self, name: str | None) -> Iterator[Any]:
        """The model with this adapter alone switched on, or with none."""
        if name is None:
            with self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext():
                yield self.model
            return
        version = self._version(name)
        with self._using([version]):
            self.model.set_adapter(version)
            yield self.model

    @contextmanager
    def folded(self, name: str) -> Iterator[Any]:
        """The model with this adapter added to its weights, which answers as fast as the base alone.

        Afterwards the weights are put back from copies, to the last bit.
        """
        with self.only(name) as model:
            version = self._version(name)
            layers = [m for m in model.modules() if hasattr(m, "get_delta_weight") and version in m.lora_A]
            kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
            for layer in layers:
                layer.merge(adapter_names=[version])
            try:
                yield model
            finally:
                for layer, weight in zip(layers, kept, strict=True):
                    layer.merged_adapters.clear()
                    layer.get_base_layer().weight.data.copy_(weight)

    def _version(self, name: str) -> str:
        if name not in self._versions:
            raise ModelError(f"no adapter {name!r} is loaded. {nearest(name, self._versions)}")
        return self._versions[name]

    def _loaded(self, directory: Path) -> str:
        config = directory / "adapter_config.json"
        if not config.exists() or not (directory / WEIGHTS).exists():
            raise ModelError(f"{directory} holds no adapter (adapter_config.json and {WEIGHTS})")
        facts = json.loads(config.read_text(encoding="utf-8"))
        kind = facts.get("peft_type")
        if kind != "LORA":
            raise ModelError(f"{directory} is of the kind {kind}; only LoRA adapters can stand side by side")
        more = [name for name in ALONE if facts.get(name) not in (None, False, "none", [], {})]
        if more:
            raise ModelError(
                f"{directory} has {more[0]}={facts[more[0]]!r}, which a batch with other adapters has no"
                " place for; use it alone, or merge it"
            )
        self._check_base(directory)
        # Names of PEFT's own parts must not contain an adapter's name, so versions look like none of them.
        version = f"v{next(self._number)}!"
        with quiet_peft():
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(directory), version)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(directory), adapter_name=version)
        self.model.eval().requires_grad_(False)
        self._digests[version] = file_digest(directory / WEIGHTS)
        for idle in self.model.peft_config.keys() - self._digests.keys():
            self._delete(idle)
        return version

    def _check_base(self, directory: Path) -> None:
        """Raise ``ModelError`` for an adapter whose base was another one, or was changed before training."""
        check_base(directory, self.base.model, self.base.prints)
        changes = recorded_changes(directory)
        lossy = changes.quantise is not None and not is_quantised(self.base.model)
        if lossy or changes.rope or changes.new_tokens:
            raise ModelError(
                f"{directory} was trained over a base that was changed before"
                f" ({', '.join(changes.to_dict())}), and {self.base.ref.name} is as it is on disk;"
                " use it alone, or merge it"
            )

    @contextmanager
    def _using(self, versions: Sequence[str]) -> Iterator[None]:
        for version in versions:
            self._users[version] = self._users.get(version, 0) + 1
        try:
            yield
        finally:
            for version in versions:
                self._users[version] -= 1
            for version in set(versions):
                self._drop_if_idle(version)

    def _drop_if_idle(self, version: str) -> None:
        if version in self._versions.values() or self._users.get(version, 0) > 0:
            return
        self._digests.pop(version, None)
        if len(self.model.peft_config) > 1:  # PEFT needs one; the last stays until another comes
            self._delete(version)

    def _delete(self, version: str) -> None:
        if version in self.model.active_adapters:
            self.model.set_adapter(next(name for name in self.model.peft_config if name != version))
        self.model.delete_adapter(version)
