"""The one place where the engine's property bags become typed models, and models become outputs.

A provider below declares a model of its inputs and one of its outputs, and works on these alone.

Pulumi's dynamic provider server answers every exception with its whole traceback, causes included.
For what the host, the network or the operator did wrong that buries the remedy, so such an error
leaves a provider without its history; a defect of the program keeps it.

A dynamic provider cannot name the fields that changed. Where it answers "unknown" the engine
compares the inputs itself and shows just those that differ (pulumi: pkg/resource/deploy,
diffResource); where it answers "yes", `preview --diff` prints every input of the resource.
"""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Final, Generic, ParamSpec, TypeAlias, TypeVar

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult
from pulumi.runtime.rpc import contains_unknowns
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sync.providers.host.connection import DataRootGoneError, HostConnection, HostError
from sync.providers.host.host import DataRoot
from sync.providers.wheels import WheelError

# Properties as the engine hands them over: floats for numbers, unknowns in previews.
Bag: TypeAlias = Mapping[str, object]
# Why a refreshed resource needs a repair. It stands in its inputs too, where the program has none,
# so that the reason is the field that a preview shows as changed.
REPAIR: Final = "repair"
_REASONS_LOGGED: Final = 5
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


def _whole(value: object) -> object:
    # The engine's numbers are doubles (google.protobuf.Value): 45 arrives as 45.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole: TypeAlias = Annotated[int, Field(strict=True), BeforeValidator(_whole)]


class Model(BaseModel):
    """Inputs or outputs: snake_case here, camelCase in the state; a None is an absent property."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,  # a secret may be among them
    )


class HostInputs(Model):
    """What every resource on the mirror host takes. root: its data root, an absolute path."""

    host: HostConnection
    root: str

    @property
    def data_root(self) -> DataRoot:
        """The data root on its host."""
        return DataRoot(self.host, self.root)


InputsT = TypeVar("InputsT", bound=Model)
HostInputsT = TypeVar("HostInputsT", bound=HostInputs)
OutputsT = TypeVar("OutputsT", bound=Model)


def plainly(operation: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap an operation so that its expected errors carry neither causes nor inner frames."""

    @functools.wraps(operation)
    def plain(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return operation(*arguments, **keywords)
        except (HostError, WheelError) as error:
            raise error.with_traceback(None) from None

    return plain


class Provider(ResourceProvider, ABC, Generic[InputsT, OutputsT]):
    """Base of all: a resource that is remembered in the state, and nowhere else."""

    # Nothing secret is captured in a provider, so the state may show which class it is.
    serialize_as_secret_always: bool = False
    inputs_type: type[InputsT]
    outputs_type: type[OutputsT]
    # The resource's id, made of its inputs: deterministic, so that a create adopts what it finds.
    id_form: ClassVar[str]
    # An input that makes it another resource when it changes; inputs whose change is none.
    replaced_by: ClassVar[str] = ""
    not_compared: ClassVar[frozenset[str]] = frozenset()
    delete_before_replace: ClassVar[bool | None] = None
    # Whether a refresh gives the inputs anew, with the reasons for a repair among them.
    refreshes_inputs: ClassVar[bool] = False

    @abstractmethod
    def apply(self, inputs: InputsT, before: OutputsT | None, /) -> OutputsT:
        """Make it so, safe to repeat. before: as the state has it, None for a new resource."""

    def observe(self, _inputs: InputsT, before: OutputsT, /) -> OutputsT | None:
        """Return the outputs as they are now; None where the resource is gone."""
        return before

    def repairs(self, _before: OutputsT, _inputs: InputsT | None, /) -> Sequence[str]:
        """Say why unchanged inputs have to be applied again. inputs: None while not all known."""
        return ()

    def differ(self, _before: OutputsT, olds: InputsT, news: InputsT, /) -> bool:
        """Return whether the inputs have to be applied anew."""
        skipped = set(self.not_compared)
        return olds.model_dump(exclude=skipped) != news.model_dump(exclude=skipped)

    def replacements(self, _olds: Bag, _news: Bag, /) -> dict[str, str]:
        """Return further inputs that make it another resource, and why; some may be unknown."""
        return {}

    @plainly
    def create(self, props: Bag) -> CreateResult:
        """Apply the inputs of a new resource."""
        inputs = self.inputs_type.model_validate(props)
        return CreateResult(
            self.id_form.format(inputs), self._outs(props, self.apply(inputs, None))
        )

    @plainly
    def update(self, _id: str, _olds: Bag, _news: Bag) -> UpdateResult:
        """Apply the new inputs."""
        inputs = self.inputs_type.model_validate(_news)
        before = self.outputs_type.model_validate(_olds)
        return UpdateResult(self._outs(_news, self.apply(inputs, before)))

    @plainly
    def read(self, id_: str, props: Bag) -> ReadResult:
        """Observe; what needs a repair says so in its inputs and outputs."""
        inputs = self.inputs_type.model_validate(props)
        seen = self.observe(inputs, self.outputs_type.model_validate(props))
        if seen is None:
            return ReadResult(None, {})
        outs = self._outs(props, seen)
        if not self.refreshes_inputs:
            return ReadResult(id_, outs)
        reasons = list(self.repairs(seen, inputs))
        repair = {REPAIR: reasons} if reasons else {}
        return ReadResult(id_, {**outs, **repair}, {**self.given(props), **repair})

    @plainly
    def diff(self, _id: str, _olds: Bag, _news: Bag) -> DiffResult:
        """Compare; show no more than what differs, and log why a repair is needed."""
        news = None if contains_unknowns(_news) else self.inputs_type.model_validate(_news)
        before = self.outputs_type.model_validate(_olds)
        olds = None
        with contextlib.suppress(ValidationError):  # the form of an earlier release
            olds = self.inputs_type.model_validate(_olds)
        changed = olds is None or news is None or self.differ(before, olds, news)
        replaces = self.replacements(_olds, _news)
        reasons = self.repairs(before, news)
        _log(_id, [*replaces.values(), *reasons])
        if _olds.get(self.replaced_by) != _news.get(self.replaced_by):
            replaces[self.replaced_by] = ""
        # Where the inputs differ from the state's, the engine is left to find which; where they
        # did not, it would drop the change. The host may not be as it should, whatever they say.
        inputs_differ = changed or bool(replaces) or (bool(reasons) and REPAIR in _olds)
        return DiffResult(
            changes=None if inputs_differ else bool(reasons),
            replaces=list(replaces),
            delete_before_replace=self.delete_before_replace,
        )

    def given(self, props: Bag) -> dict[str, object]:
        """Return the properties that are inputs, as they are: the state keeps these values."""
        fields = self.inputs_type.model_fields.values()
        names = [field.alias or "" for field in fields if not field.exclude]
        return {name: props[name] for name in names if name in props}

    def _outs(self, props: Bag, outputs: OutputsT) -> dict[str, object]:
        return {**self.given(props), **outputs.model_dump(mode="json", by_alias=True)}


class Drift(Model):
    """Outputs of a resource on the host; drift: a line for each difference that was seen."""

    drift: tuple[str, ...] = ()


DriftT = TypeVar("DriftT", bound=Drift)


class HostProvider(Provider[HostInputsT, DriftT]):
    """Base of the providers that make something on the mirror host, and repair its drift."""

    replaced_by: ClassVar[str] = "root"
    refreshes_inputs: ClassVar[bool] = True

    def repairs(self, before: DriftT, _inputs: HostInputsT | None, /) -> Sequence[str]:
        """Repair every drift."""
        return before.drift

    @abstractmethod
    def remove(self, inputs: HostInputsT, before: DriftT, /) -> None:
        """Remove it from the host."""

    @plainly
    def delete(self, _id: str, _props: Bag) -> None:
        """Remove it; with the data root all of it is gone."""
        inputs = self.inputs_type.model_validate(_props)
        with contextlib.suppress(DataRootGoneError):
            self.remove(inputs, self.outputs_type.model_validate(_props))


def _log(id_: str, reasons: Sequence[str]) -> None:
    """Log under the id's last part: of a job its name."""
    if reasons:
        further = len(reasons) - _REASONS_LOGGED
        words = "; ".join(reasons[:_REASONS_LOGGED]) + (f"; {further} more" if further > 0 else "")
        pulumi.log.info(f"{id_.rpartition('#')[2]}: {words}")
