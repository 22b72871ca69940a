"""Answers to the kinds that are questions: who am I, may I, may they. Nothing of them is stored.

`ANSWERS` has one function a kind: from who asks, the namespace of the request and the question (as its model has it) to
the question's `status`. A kind without stored objects in the table of kinds needs an entry here. Source: the Kubernetes
documentation on authorization ("Checking API access") and `pkg/registry/authorization`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.apiserver.authentication import Authenticator, UserInfo
from controlplane.apiserver.authorization import Attributes, Authorizer, node_name
from controlplane.apiserver.tokens import InvalidToken, ServiceAccountTokens
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import TABLE, Kind
from pyk.api.objects import Object
from pyk.api.selectors import BadSelector, FieldRequirement, parse_field_selector
from pyk.api.status import FieldError, bad_request, invalid

_GROUP = "authorization.k8s.io"


class Reviewer:
    """Answers questions by the same authorizer as every request."""

    def __init__(
        self, authorizer: Authorizer, cache: WatchCache, authenticator: Authenticator, tokens: ServiceAccountTokens
    ) -> None:
        self._authorizer = authorizer
        self._cache = cache
        self._authenticator = authenticator
        self._tokens = tokens

    async def answer(self, user: UserInfo, kind: Kind, namespace: str, question: Object) -> Object:
        """The question with its `status`. Raises 400 and 422 `ApiError`."""
        question.setdefault("metadata", {})
        question["status"] = await ANSWERS[kind](self, user, namespace, question)
        return question

    async def _who_am_i(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        return {"userInfo": user_document(user)}

    async def _may_i(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        spec = question["spec"]
        _check_one("SelfSubjectAccessReview", spec)
        return await self._decide(user, spec)

    async def _may_they(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        spec = question["spec"]
        _check_subject("SubjectAccessReview", spec)
        return await self._decide(_subject_of(spec), spec)

    async def _may_they_here(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        spec, kind = question["spec"], "LocalSubjectAccessReview"
        _check_subject(kind, spec)
        if "nonResourceAttributes" in spec:
            detail = "disallowed on this kind of request"
            raise _wrong(kind, FieldError.invalid("spec.nonResourceAttributes", spec["nonResourceAttributes"], detail))
        asked = spec["resourceAttributes"].get("namespace") or ""
        if asked != namespace:
            detail = "must match metadata.namespace"
            raise _wrong(kind, FieldError.invalid("spec.resourceAttributes.namespace", asked, detail))
        return await self._decide(_subject_of(spec), spec)

    async def _my_rules(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        namespace = question["spec"].get("namespace") or ""
        if not namespace:
            raise bad_request("no namespace on request")
        await self._cache.catch_up()
        rules = [rule.to_document() for rule in self._authorizer.book.rules_for(user, namespace)]
        status: dict[str, Any] = {
            "resourceRules": [rule for rule in rules if "resources" in rule],
            "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
            "incomplete": False,
        }
        if node_name(user):
            status["incomplete"] = True
            status["evaluationError"] = "node authorizer does not support user rule resolution"
        return status

    async def _whose_token(self, user: UserInfo, namespace: str, question: Object) -> dict[str, Any]:
        token, wanted = question["spec"].get("token") or "", question["spec"].get("audiences") or ()
        if not token:
            raise bad_request("token is required for TokenReview in authentication")
        owner, audiences = await self._authenticator.owner_of(token), list(self._tokens.api_audiences)
        if owner is not None:
            audiences = [audience for audience in wanted or audiences if audience in audiences]
        try:
            if owner is None or not audiences:
                owner, audiences = await self._tokens.verify(token, wanted)
        except InvalidToken as error:
            return {"user": {}, "error": f"[invalid bearer token, {error}]"}
        return {"authenticated": True, "user": user_document(owner), "audiences": audiences}

    async def _decide(self, user: UserInfo, spec: dict[str, Any]) -> dict[str, Any]:
        # Whoever has just bound a role asks next whether it works.
        await self._cache.catch_up()
        asked = attributes_of(user, spec)
        status: dict[str, Any] = {"allowed": self._authorizer.decide(asked) is None}
        if status["allowed"] and (reason := self._authorizer.reason(asked)):
            status["reason"] = reason
        return status


Answer = Callable[[Reviewer, UserInfo, str, Object], Awaitable[dict[str, Any]]]
_BY_NAME: dict[str, Answer] = {
    "SelfSubjectReview": Reviewer._who_am_i,
    "TokenReview": Reviewer._whose_token,
    "SelfSubjectAccessReview": Reviewer._may_i,
    "SelfSubjectRulesReview": Reviewer._my_rules,
    "SubjectAccessReview": Reviewer._may_they,
    "LocalSubjectAccessReview": Reviewer._may_they_here,
}
ANSWERS: dict[Kind, Answer] = {kind: _BY_NAME[kind.kind] for kind in TABLE if kind.is_question}


def user_document(user: UserInfo) -> dict[str, Any]:
    """As the API's UserInfo."""
    found: dict[str, Any] = {"username": user.name}
    if user.uid:
        found["uid"] = user.uid
    if user.groups:
        found["groups"] = list(user.groups)
    if user.extra:
        found["extra"] = {key: list(values) for key, values in user.extra}
    return found


def attributes_of(user: UserInfo, spec: dict[str, Any]) -> Attributes:
    """What a review's `spec` asks, as a request would."""
    resource = spec.get("resourceAttributes")
    if resource is None:
        path = spec["nonResourceAttributes"]
        return Attributes(user, path.get("verb") or "", path=path.get("path") or "")
    texts = {field: resource.get(field) or "" for field in ("verb", "group", "version", "resource", "subresource")}
    return Attributes(
        user,
        **texts,
        namespace=resource.get("namespace") or "",
        name=resource.get("name") or "",
        fields=_fields_of(resource.get("fieldSelector") or {}),
    )


def _fields_of(selector: dict[str, Any]) -> tuple[FieldRequirement, ...]:
    if selector.get("rawSelector"):
        try:
            return parse_field_selector(selector["rawSelector"])
        except BadSelector:
            return ()  # what cannot be read limits nothing, so it allows nothing more
    return tuple(
        FieldRequirement(each["key"], each["operator"] == "In", each["values"][0])
        for each in selector.get("requirements") or ()
        if each["operator"] in ("In", "NotIn") and len(each.get("values") or ()) == 1
    )


def _subject_of(spec: dict[str, Any]) -> UserInfo:
    extra = tuple((key, tuple(values)) for key, values in sorted((spec.get("extra") or {}).items()))
    return UserInfo(spec.get("user") or "", spec.get("uid") or "", tuple(spec.get("groups") or ()), extra)


def _wrong(kind: str, error: FieldError) -> Exception:
    return invalid(_GROUP, kind, "", [error])


def _check_one(kind: str, spec: dict[str, Any]) -> None:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and path is not None:
        detail = "cannot be specified in combination with resourceAttributes"
        raise _wrong(kind, FieldError.invalid("spec.nonResourceAttributes", path, detail))
    if resource is None and path is None:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise _wrong(kind, FieldError.invalid("spec.resourceAttributes", None, detail))


def _check_subject(kind: str, spec: dict[str, Any]) -> None:
    _check_one(kind, spec)
    if not spec.get("user") and not spec.get("groups"):
        raise _wrong(kind, FieldError.invalid("spec.user", "", "at least one of user or group must be specified"))
