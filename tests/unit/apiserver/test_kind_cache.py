"""One kind's cache: what it holds, and what watchers see of its changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.apiserver import watchcache
from controlplane.apiserver.encoding import decode, encode
from controlplane.apiserver.watchcache import KindCache, selection
from controlplane.apiserver.watchers import pin_of
from controlplane.store.contract import Event
from pyk.api.kinds import CONFIG_MAP, POD
from pyk.api.selectors import parse_field_selector, parse_label_selector


class Recorder:
    """A watcher that keeps what it is told as a picture of the world."""

    wants_bookmarks = False

    def __init__(self, namespace="", selects=None, pin=None):
        self.namespace = namespace
        self.pin = pin
        self.selects = selects
        self.events = []

    def offer(self, event):
        obj = decode(event.data)
        self.events.append((event.type, obj["metadata"]["namespace"], obj["metadata"]["name"], event.revision))

    def bookmark(self, revision): ...

    def stop(self): ...

    def world(self, start=()):
        """The keys that someone who follows these events believes in; every event must make sense to them."""
        known = set(start)
        for kind, namespace, name, _ in self.events:
            key = (namespace, name)
            assert (key in known) == (kind in ("MODIFIED", "DELETED")), (kind, key)
            known.discard(key) if kind == "DELETED" else known.add(key)
        return known


def put(key, revision, previous, labels):
    namespace, name = key
    value = encode({"metadata": {"name": name, "namespace": namespace, "labels": labels}})
    return Event(CONFIG_MAP.storage_key(*key), revision, value, previous)


keys = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]))
writes = st.lists(st.tuples(keys, st.sampled_from(["on", "off", None])), max_size=40)


def play(cache, story, start=0):
    """Apply writes (a label, or None for a deletion); what is there afterwards."""
    present = {(e.namespace, e.name): b"{}" for e in cache.entries()}
    revision = start
    for key, label in story:
        if label is None and key not in present:
            continue
        revision += 1
        if label is None:
            cache.apply(Event(CONFIG_MAP.storage_key(*key), revision, None, present.pop(key)))
        else:
            event = put(key, revision, present.get(key), {"state": label})
            cache.apply(event)
            present[key] = event.value
    return revision


def on_selection():
    return selection(CONFIG_MAP, parse_label_selector("state=on"), ())


@given(writes)
def test_watchers_end_up_with_the_world_that_the_cache_has(story):
    cache = KindCache(CONFIG_MAP)
    every, one, on = Recorder(), Recorder("a"), Recorder(selects=on_selection())
    for watcher in (every, one, on):
        cache.watch(watcher)
    play(cache, story)
    assert every.world() == {(e.namespace, e.name) for e in cache.entries()}
    assert one.world() == {(e.namespace, e.name) for e in cache.entries("a")}
    assert on.world() == {(e.namespace, e.name) for e in cache.entries() if e.labels["state"] == "on"}


@given(writes, writes)
def test_a_watch_resumed_from_any_revision_misses_and_repeats_nothing(before, after):
    cache = KindCache(CONFIG_MAP)
    live = Recorder(selects=on_selection())
    middle = play(cache, before)
    start = {(e.namespace, e.name) for e in cache.entries() if e.labels["state"] == "on"}
    cache.watch(live)
    play(cache, after, middle)
    resumed = Recorder(selects=on_selection())
    for change in cache.changes_after(middle):
        if (event := change.event(resumed.selects)) is not None:
            resumed.offer(event)
    assert resumed.events == live.events
    assert resumed.world(start) == live.world(start)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(["n1", "n2", "", None])), max_size=30))
def test_who_is_found_by_a_field_is_told_the_same_as_who_is_asked_about_all(story):
    cache = KindCache(POD)
    pairs = []
    for namespace in ("", "a", "b"):
        for text in ("spec.nodeName=n1", "spec.nodeName=n2,metadata.name!=x", "metadata.name=y", "spec.nodeName!=n1"):
            fields = parse_field_selector(text)
            selects = selection(POD, parse_label_selector(""), fields)
            pairs.append((Recorder(namespace, selects, pin_of(POD, fields)), Recorder(namespace, selects)))
    assert [pinned.pin is not None for pinned, _ in pairs[:4]] == [True, True, True, False]
    for pair in pairs:
        for watcher in pair:
            cache.watch(watcher)
    present = {}
    for revision, (name, node) in enumerate(story, 1):
        value = (
            node if node is None else encode({"metadata": {"name": name, "namespace": "a"}, "spec": {"nodeName": node}})
        )
        if value is not None or name in present:
            cache.apply(Event(POD.storage_key("a", name), revision, value, present.pop(name, None)))
        if value is not None:
            present[name] = value
    assert all(pinned.events == asked.events for pinned, asked in pairs)
    for pair in pairs:
        for watcher in pair:
            cache.unwatch(watcher)
            cache.unwatch(watcher)
    assert not list(cache.watchers())


def test_history_is_bounded_and_says_so(monkeypatch):
    monkeypatch.setattr(watchcache, "RING", 3)
    cache = KindCache(CONFIG_MAP)
    play(cache, [(("a", "x"), "on")] * 5)
    assert cache.changes_after(1) is None
    assert [change.revision for change in cache.changes_after(2)] == [3, 4, 5]
    assert cache.changes_after(5) == []


def test_the_history_of_large_objects_is_bounded_by_their_bytes(monkeypatch):
    cache = KindCache(CONFIG_MAP)
    play(cache, [(("a", "x"), "on")])
    monkeypatch.setattr(watchcache, "RING_BYTES", 3 * len(cache.get("a", "x").data))
    play(cache, [(("a", "x"), "on")] * 7, start=1)
    assert [change.revision for change in cache.changes_after(cache.floor)] == [6, 7, 8]
    assert cache.changes_after(4) is None
    monkeypatch.setattr(watchcache, "RING_BYTES", 0)
    play(cache, [(("a", "x"), None)], start=8)
    assert [change.revision for change in cache.changes_after(cache.floor)] == [9]


def test_objects_are_in_the_order_of_their_keys():
    cache = KindCache(CONFIG_MAP)
    play(cache, [((namespace, name), "on") for namespace in ("b", "a-b", "a") for name in ("y", "x")])
    found = [(e.namespace, e.name) for e in cache.entries()]
    assert found == sorted(found, key=lambda key: CONFIG_MAP.storage_key(*key))
    assert cache.entries() is cache.entries()


def test_a_deletion_is_told_with_the_last_state_and_the_new_revision():
    cache = KindCache(CONFIG_MAP)
    play(cache, [(("a", "x"), "on"), (("a", "x"), None)])
    event = cache.changes_after(1)[0].event(None)
    obj = decode(event.data)
    assert (event.type, obj["metadata"]["labels"], obj["metadata"]["resourceVersion"]) == (
        "DELETED",
        {"state": "on"},
        "2",
    )


def test_an_event_is_encoded_once_for_all_its_watchers():
    cache = KindCache(CONFIG_MAP)
    seen = []
    for _ in range(3):
        watcher = Recorder()
        watcher.offer = lambda event: seen.append(event.line)
        cache.watch(watcher)
    play(cache, [(("a", "x"), "on")])
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2]


def test_fields_select_pods():
    cache = KindCache(POD)
    for revision, (name, node) in enumerate((("p", "n1"), ("q", "n2")), start=1):
        value = encode({"metadata": {"name": name, "namespace": "a"}, "spec": {"nodeName": node}})
        cache.apply(Event(POD.storage_key("a", name), revision, value, None))
    selects = selection(POD, (), parse_field_selector("spec.nodeName=n1,metadata.namespace=a"))
    assert [entry.name for entry in cache.entries() if selects(entry)] == ["p"]
