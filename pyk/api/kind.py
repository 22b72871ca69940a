"""What a kind's declaration is made of: `Kind`, its `Rules`, and its `Conversion` when another kind stores it.

The declarations are in `pyk.api.groups`, one module an API group; `pyk.api.kinds` joins them. Importing this module
builds no model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyk.api.objects import Object
from pyk.api.status import FieldError

if TYPE_CHECKING:
    from pyk.api.base import Model


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`.

    `cell` computes the value from the object and the present time in seconds since the epoch. Columns with
    `priority` 1 show with `-o wide` only. `kind` and `format` are OpenAPI's (`integer`, `string`; `name`).
    """

    name: str
    cell: Callable[[Object, float], Any]
    priority: int = 0
    kind: str = "string"
    format: str = ""
    description: str = ""


def _no_default(obj: Object) -> None:
    """Nothing to fill in."""


def _always_valid(obj: Object, old: Object | None) -> Iterable[FieldError]:
    return ()


@dataclass(frozen=True, slots=True)
class Part:
    """A subresource that writes one part of the spec: `take(new, old)` is the old object with that part as it is in
    the new one, `validate(new, old)` yields what is wrong with the change."""

    take: Callable[[Object, Object], Object]
    validate: Callable[[Object, Object], Iterable[FieldError]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is particular to a kind, as pure functions on the JSON document.

    `default` fills in defaults in place (spec and metadata; after the model has checked the types).
    `validate` yields what is wrong with a new object (`old` None) or with a change of the main resource (the
    immutable fields included); `validate_status` the same for the `status` subresource. `prepare` runs
    on every write of the main resource after defaulting and may set what the server owns (`old` None on creation);
    `prepare_status` the same on writes of the `status` subresource.
    `fields` are the selectable fields besides `metadata.name` and `metadata.namespace`. `parts` are the subresources
    that write a part of the spec, by name.
    """

    default: Callable[[Object], None] = _no_default
    validate: Callable[[Object, Object | None], Iterable[FieldError]] = _always_valid
    validate_status: Callable[[Object, Object | None], Iterable[FieldError]] = _always_valid
    prepare: Callable[[Object, Object | None], None] = lambda obj, old: None
    prepare_status: Callable[[Object, Object], None] = lambda obj, old: None
    columns: tuple[Column, ...] = ()
    fields: Mapping[str, Callable[[Object], str]] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where the `scale` subresource finds its numbers, as dotted paths.

    With `selects_labels` the selector is a plain map of labels, as ReplicationControllers have it.
    """

    spec_replicas: str = "spec.replicas"
    status_replicas: str = "status.replicas"
    selector: str = "spec.selector"
    selects_labels: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a kind is a view of the objects that another kind stores: one stored form, several shapes.

    Both functions take a document and return a new one, `kind` and `apiVersion` aside. `fields` maps the selectable
    fields of the view to those of the stored kind.
    """

    to_stored: Callable[[Object], Object]
    from_stored: Callable[[Object], Object]
    fields: Mapping[str, str] = field(default_factory=dict)


ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
"""What can be done with a kind whose objects are stored."""
COMPUTED_VERBS = ("get", "list")
"""What can be done with a kind whose objects are made when somebody reads them."""


@dataclass(frozen=True)
class Kind:
    """One kind of object at one version.

    `model` and `rules` are `module:attribute` below `pyk.api`, imported when first used. `subresources` are served
    besides `scale`, which `scale` declares. `has_status`: writes of the main resource leave `status` alone and the
    `status` subresource writes nothing else; `generation` counts changes of everything but metadata and status.
    With `orphans_by_default` a DELETE that names no propagation policy leaves the dependents, as the oldest kinds do.
    `name_check` is a function of `pyk.api.names`. With `graceful_deletion` a DELETE first sets `deletionTimestamp` and
    the node's agent removes the object when its processes are gone. A DELETE that removes an object at once answers
    with it when it is `returned_when_deleted`, else with a `Status`: typed clients expect the one or the other. With
    `creates_on_update` a PUT of an object that is not there creates it. A kind whose only verb is `create` is a
    question: nothing of it is stored, and the API server answers it by a function
    (`controlplane/apiserver/reviews.py`); nor is one stored that can only be read
    (`controlplane/apiserver/nodemetrics.py`).
    A kind with `stored_as` is a view of that kind's objects: its `conversion` says how it shows them. The rules that
    count are those of the stored kind.
    """

    group: str
    version: str
    kind: str
    plural: str
    model_path: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    rules_path: str = ""
    has_status: bool = False
    has_generation: bool = False
    scale: ScalePaths | None = None
    subresources: tuple[str, ...] = ()
    name_check: str = "dns_subdomain"
    graceful_deletion: bool = False
    verbs: tuple[str, ...] = ALL_VERBS
    stored_as: Kind | None = None
    conversion_path: str = ""
    creates_on_update: bool = False
    orphans_by_default: bool = False
    returned_when_deleted: bool = False

    @property
    def is_question(self) -> bool:
        """Whether the kind can only be asked (created), and is answered at once."""
        return self.verbs == ("create",)

    @property
    def is_computed(self) -> bool:
        """Whether the kind can only be read, and its objects are made of what is so at that moment."""
        return self.verbs == COMPUTED_VERBS

    @property
    def is_stored(self) -> bool:
        """Whether objects are stored as this kind; else it is a question, computed, or a view of another's objects."""
        return not self.is_question and not self.is_computed and self.stored_as is None

    @cached_property
    def api_version(self) -> str:
        """`v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def resource(self) -> str:
        """`pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def resource_name(self) -> str:
        """`pod`, `deployment.apps`: what commands put before a name."""
        return f"{self.singular}.{self.group}" if self.group else self.singular

    @cached_property
    def storage_prefix(self) -> str:
        """Where objects of the kind are in the store: `/registry/pods/`, `/registry/apps/deployments/`."""
        if self.stored_as is not None:
            return self.stored_as.storage_prefix
        return f"/registry/{self.group}/{self.plural}/" if self.group else f"/registry/{self.plural}/"

    def storage_key(self, namespace: str, name: str) -> str:
        return f"{self.storage_prefix}{namespace}/{name}" if self.namespaced else f"{self.storage_prefix}{name}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection or object: `/apis/apps/v1/namespaces/default/deployments/web/scale`.

        An empty namespace of a namespaced kind means all namespaces.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    @cached_property
    def model(self) -> type[Model]:
        """The pydantic model of the object."""
        found: type[Model] = _load(self.model_path)
        return found

    @cached_property
    def rules(self) -> Rules:
        """Defaults, checks, columns and selectable fields."""
        if not self.rules_path:
            return Rules()
        found: Rules = _load(self.rules_path)
        return found

    @cached_property
    def conversion(self) -> Conversion | None:
        """How objects are shown that another kind stores; None for a kind that stores its own."""
        if not self.conversion_path:
            return None
        found: Conversion = _load(self.conversion_path)
        return found


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(f"pyk.api.{module}"), attribute)
