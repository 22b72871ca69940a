"""The arithmetic of a rollout: how many pods each ReplicaSet of a Deployment should have next.

Pure functions on the documents; nothing here knows names, times or conditions. Each step keeps two promises: never
more than `replicas + maxSurge` pods that live, never fewer than `replicas - maxUnavailable` available, as far as the
step decides it (pods may also fail by themselves). Where a status is behind its spec, the worse of the two counts.
Source: Kubernetes' documentation of Deployments ("Rolling Update Deployment", "Proportional scaling").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyk.api.objects import Object, annotations_of, name_of

DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"

Sizes = dict[str, int]
"""Wanted `spec.replicas` by the name of the ReplicaSet."""


def size(obj: Object) -> int:
    """`spec.replicas`, 1 when it is not given."""
    replicas = obj["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def status_number(obj: Object, field: str) -> int:
    return int((obj.get("status") or {}).get(field) or 0)


def actual(replica_set: Object) -> int:
    """The active pods that the set reports."""
    return status_number(replica_set, "replicas")


def available(replica_set: Object) -> int:
    """The available pods that will be left when the set has the size it is asked for now."""
    return min(status_number(replica_set, "availableReplicas"), size(replica_set))


def _live(replica_set: Object) -> int:
    """Pods that are there or may come."""
    return max(size(replica_set), actual(replica_set))


def resolved(value: int | str | None, total: int, *, round_up: bool) -> int:
    """An absolute number, or a percentage of `total`."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    scaled = int(value.removesuffix("%")) * total
    return -(-scaled // 100) if round_up else scaled // 100


def is_rolling(deployment: Object) -> bool:
    return bool((deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")


def fence_posts(deployment: Object) -> tuple[int, int]:
    """`maxSurge` (rounded up) and `maxUnavailable` (rounded down) as numbers of pods.

    When both come to 0 one pod may be missing, else nothing could ever move. Recreate allows neither.
    """
    if not is_rolling(deployment):
        return 0, 0
    replicas = size(deployment)
    limits = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = resolved(limits.get("maxSurge", "25%"), replicas, round_up=True)
    unavailable = resolved(limits.get("maxUnavailable", "25%"), replicas, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, replicas)


def size_of_new(deployment: Object, new: Object | None, old: Sequence[Object]) -> int:
    """The next size of the new set (None: it is yet to be made)."""
    replicas = size(deployment)
    current = size(new) if new is not None else 0
    if current >= replicas:
        return replicas
    if not is_rolling(deployment):
        return replicas
    room = replicas + fence_posts(deployment)[0] - sum(map(_live, old)) - (_live(new) if new is not None else 0)
    return current + max(0, min(room, replicas - current))


def sizes_of_old(deployment: Object, new: Object, old: Sequence[Object]) -> Sizes:
    """The sizes of the old sets (oldest first) after what may go now has gone; only those that change.

    Pods that are not available go first, from the oldest set on: they help nobody, and waiting for them could last for
    ever. Then available ones, as many as the new set's available pods replace.
    """
    minimum = size(deployment) - fence_posts(deployment)[1]
    sizes = {name_of(each): size(each) for each in old}
    before = dict(sizes)
    total = sum(sizes.values()) + size(new)
    removable = total - minimum - (size(new) - available(new))
    for each in old:
        gone = max(0, min(removable, sizes[name_of(each)] - available(each)))
        sizes[name_of(each)] -= gone
        removable -= gone
    spare = available(new) + sum(min(available(each), sizes[name_of(each)]) for each in old) - minimum
    spare = min(spare, removable)
    for each in old:
        gone = max(0, min(spare, sizes[name_of(each)]))
        sizes[name_of(each)] -= gone
        spare -= gone
    return {name: wanted for name, wanted in sizes.items() if wanted != before[name]}


def size_annotations(deployment: Object) -> dict[str, str]:
    """What a set remembers of the Deployment's size when it was last scaled: proportional scaling starts from it."""
    replicas = size(deployment)
    return {DESIRED_REPLICAS: str(replicas), MAX_REPLICAS: str(replicas + fence_posts(deployment)[0])}


def was_scaled(deployment: Object, replica_sets: Sequence[Object]) -> bool:
    """Whether the Deployment's own size has changed since its living sets were last sized."""
    noted = [annotations_of(each).get(DESIRED_REPLICAS) for each in replica_sets if size(each) > 0]
    return any(number is not None and number != str(size(deployment)) for number in noted)


def is_saturated(deployment: Object, new: Object | None) -> bool:
    """Whether the new set alone carries the whole Deployment, with every pod available."""
    if new is None:
        return False
    replicas = size(deployment)
    return size(new) == replicas and status_number(new, "availableReplicas") == replicas


def scaled_sizes(deployment: Object, new: Object | None, old: Sequence[Object]) -> Sizes:
    """The sizes after the Deployment itself was scaled (or while it is paused).

    With one set alive, that one takes the whole change. With several, a rollout under way keeps its proportions: each
    takes its share by its size, and what rounding leaves goes to the largest.
    """
    alive = [each for each in (*old, *((new,) if new is not None else ())) if size(each) > 0]
    replicas = size(deployment)
    if len(alive) <= 1:
        only = alive[0] if alive else new if new is not None else old[-1] if old else None
        return {name_of(only): replicas} if only is not None else {}
    if is_saturated(deployment, new):
        return {name_of(each): 0 for each in alive if each is not new}
    if not is_rolling(deployment):
        return {}
    allowed = replicas + fence_posts(deployment)[0] if replicas > 0 else 0
    to_add = allowed - sum(map(size, alive))
    # The newer of equals first when growing, the older when shrinking; `alive` is in order of age.
    order = sorted(reversed(alive) if to_add > 0 else alive, key=size, reverse=True)
    sizes: Sizes = {}
    added = 0
    for each in order:
        share = _share(deployment, each, allowed, to_add, added)
        sizes[name_of(each)] = size(each) + share
        added += share
    largest = name_of(order[0])
    sizes[largest] = max(0, sizes[largest] + to_add - added)
    return sizes


def _share(deployment: Object, replica_set: Object, allowed: int, to_add: int, added: int) -> int:
    """What one set takes of the pods to add (negative: to remove)."""
    if to_add == added:
        return 0
    if size(deployment) == 0:
        fraction = -size(replica_set)
    else:
        annotations: Mapping[str, str] = annotations_of(replica_set)
        noted = annotations.get(MAX_REPLICAS, "")
        before = int(noted) if noted.isdecimal() else 0
        before = before or status_number(deployment, "replicas")
        fraction = _rounded(size(replica_set) * allowed, before) - size(replica_set) if before else 0
    return min(fraction, to_add - added) if to_add > 0 else max(fraction, to_add - added)


def _rounded(numerator: int, denominator: int) -> int:
    """Division to the nearest whole, halves up (away from zero; both are positive)."""
    return (2 * numerator + denominator) // (2 * denominator)
